"""Table 2, right: MASA*. Published result: CUFED5 27.47 dB / 0.815."""

from ml_collections import ConfigDict

from configs import masa


def get_config() -> ConfigDict:
    return masa.get_config()
