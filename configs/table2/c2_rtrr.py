"""Table 2, right: C2-Matching* with reciprocal training. Published result: CUFED5 28.64 dB / 0.853."""

from ml_collections import ConfigDict

from configs import c2_matching_rtrr


def get_config() -> ConfigDict:
    return c2_matching_rtrr.get_config()
