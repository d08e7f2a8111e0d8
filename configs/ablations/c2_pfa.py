"""Table 2 in miniature: progressive feature alignment. Published result at full size: CUFED5 28.63 dB / 0.851."""

from ml_collections import ConfigDict

from configs.ablations import c2_pfa_ras


def get_config() -> ConfigDict:
    c = c2_pfa_ras.get_config()
    c.model.experts = 0
    return c
