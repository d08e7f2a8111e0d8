"""Table 2 in miniature: C2-Matching* with reciprocal training. Published result at full size: CUFED5 28.64 dB / 0.853."""

from ml_collections import ConfigDict

from configs.ablations import c2


def get_config() -> ConfigDict:
    c = c2.get_config()
    c.loss.rtrr = 0.4
    return c
