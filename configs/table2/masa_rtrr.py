"""Table 2, right: MASA* with reciprocal training. Published result: CUFED5 27.58 dB / 0.818."""

from ml_collections import ConfigDict

from configs import masa_rtrr


def get_config() -> ConfigDict:
    return masa_rtrr.get_config()
