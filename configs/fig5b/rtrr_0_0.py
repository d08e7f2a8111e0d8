"""Fig. 5(b), without reciprocal training. Published result: CUFED5 28.70 dB / 0.853 (Table 2)."""

from ml_collections import ConfigDict

from configs import cufed5


def get_config() -> ConfigDict:
    c = cufed5.get_config()
    c.loss.rtrr = 0.0
    return c
