"""Table 2 in miniature: with reciprocal training, too, RRSR-rec. Published result at full size: CUFED5 28.83 dB / 0.856."""

from ml_collections import ConfigDict

from configs import photos


def get_config() -> ConfigDict:
    c = photos.get_config()
    c.init_from = "student"  # of the same list
    return c
