"""MASA-rec with reciprocal training, weight 0.4: the right half of the paper's Table 2.

    python -m rrsr_jax.main --config=configs/masa_rtrr.py --workdir=runs/masa_rtrr

Published result: CUFED5 27.58 dB / 0.818 (27.47 dB / 0.815 without).
"""

from ml_collections import ConfigDict

from configs import masa


def get_config() -> ConfigDict:
    c = masa.get_config()
    c.loss.rtrr = 0.4
    return c
