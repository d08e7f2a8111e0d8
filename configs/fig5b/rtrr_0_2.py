"""Fig. 5(b), weight 0.2 of the reciprocal loss, a value of ours. Published result: a curve; figures known at 0 and 0.4."""

from ml_collections import ConfigDict

from configs import cufed5


def get_config() -> ConfigDict:
    c = cufed5.get_config()
    c.loss.rtrr = 0.2
    return c
