"""Table 2, right: TTSR* with reciprocal training. Published result: CUFED5 27.17 dB / 0.804."""

from ml_collections import ConfigDict

from configs import ttsr_rtrr


def get_config() -> ConfigDict:
    return ttsr_rtrr.get_config()
