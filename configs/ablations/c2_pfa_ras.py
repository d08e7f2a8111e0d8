"""Table 2 in miniature: with reference-aware selection, too. Published result at full size: CUFED5 28.70 dB / 0.853."""

from ml_collections import ConfigDict

from configs.ablations import c2_pfa_ras_rtrr


def get_config() -> ConfigDict:
    c = c2_pfa_ras_rtrr.get_config()
    c.loss.rtrr = 0.0
    return c
