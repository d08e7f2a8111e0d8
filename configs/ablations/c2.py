"""Table 2 in miniature, the baseline: C2-Matching*. Published result at full size: CUFED5 28.40 dB / 0.846."""

from ml_collections import ConfigDict

from configs.ablations import c2_pfa


def get_config() -> ConfigDict:
    c = c2_pfa.get_config()
    c.model.update(alignments=(1, 1, 1), blocks=(2, 2, 2))
    return c
