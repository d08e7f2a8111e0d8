"""Table 2, the baseline of both halves: C2-Matching*. Published result: CUFED5 28.40 dB / 0.846."""

from ml_collections import ConfigDict

from configs import c2_matching


def get_config() -> ConfigDict:
    return c2_matching.get_config()
