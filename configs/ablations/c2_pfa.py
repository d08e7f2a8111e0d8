"""Table 2 in miniature: progressive feature alignment. Published result at full size: CUFED5 28.63 dB / 0.851."""

from ml_collections import ConfigDict

from configs import photos


def get_config() -> ConfigDict:
    c = photos.get_config()
    c.model.experts = 0
    c.loss.rtrr = 0.0
    return c
