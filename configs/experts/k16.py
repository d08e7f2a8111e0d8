"""16 experts in the selection, as in the paper's main run. Published result: CUFED5 28.83 dB / 0.856."""

from ml_collections import ConfigDict

from configs import cufed5


def get_config() -> ConfigDict:
    c = cufed5.get_config()
    c.model.experts = 16
    return c
