"""Table 2 in miniature, the baseline: C2-Matching*. Published result at full size: CUFED5 28.40 dB / 0.846."""

from ml_collections import ConfigDict

from configs import photos


def get_config() -> ConfigDict:
    c = photos.get_config()
    c.model.update(alignments=(1, 1, 1), blocks=(2, 2, 2), experts=0)
    c.loss.rtrr = 0.0
    return c
