"""Table 2 in miniature: MASA* with reciprocal training. Published result at full size: CUFED5 27.58 dB / 0.818."""

from ml_collections import ConfigDict

from configs.ablations import masa


def get_config() -> ConfigDict:
    c = masa.get_config()
    c.loss.rtrr = 0.4
    return c
