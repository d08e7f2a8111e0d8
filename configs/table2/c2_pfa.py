"""Table 2, left: C2-Matching* with progressive feature alignment. Published result: CUFED5 28.63 dB / 0.851."""

from ml_collections import ConfigDict

from configs import cufed5


def get_config() -> ConfigDict:
    c = cufed5.get_config()
    c.model.experts = 0
    c.loss.rtrr = 0.0
    return c
