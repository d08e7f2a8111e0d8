"""Fig. 5(b), weight 1.0 of the reciprocal loss, a value of ours. Published result: above 0.4 the curve falls."""

from ml_collections import ConfigDict

from configs import cufed5


def get_config() -> ConfigDict:
    c = cufed5.get_config()
    c.loss.rtrr = 1.0
    return c
