"""Table 2, left: with reciprocal training, too, which is RRSR-rec. Published result: CUFED5 28.83 dB / 0.856."""

from ml_collections import ConfigDict

from configs import cufed5


def get_config() -> ConfigDict:
    return cufed5.get_config()
