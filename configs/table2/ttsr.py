"""Table 2, right: TTSR*. Published result: CUFED5 27.03 dB / 0.800."""

from ml_collections import ConfigDict

from configs import ttsr


def get_config() -> ConfigDict:
    return ttsr.get_config()
