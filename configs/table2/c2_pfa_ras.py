"""Table 2, left: with reference-aware selection, too. Published result: CUFED5 28.70 dB / 0.853."""

from ml_collections import ConfigDict

from configs import cufed5


def get_config() -> ConfigDict:
    c = cufed5.get_config()
    c.loss.rtrr = 0.0
    return c
