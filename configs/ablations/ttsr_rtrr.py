"""Table 2 in miniature: TTSR* with reciprocal training. Published result at full size: CUFED5 27.17 dB / 0.804."""

from ml_collections import ConfigDict

from configs.ablations import ttsr


def get_config() -> ConfigDict:
    c = ttsr.get_config()
    c.loss.rtrr = 0.4
    return c
