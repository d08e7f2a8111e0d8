"""Fig. 5(b), the paper's weight of the reciprocal loss. Published result: CUFED5 28.83 dB / 0.856 (Table 2)."""

from ml_collections import ConfigDict

from configs import cufed5


def get_config() -> ConfigDict:
    c = cufed5.get_config()
    c.loss.rtrr = 0.4
    return c
