"""TTSR-rec with reciprocal training, weight 0.4: the right half of the paper's Table 2.

    python -m rrsr_jax.main --config=configs/ttsr_rtrr.py --workdir=runs/ttsr_rtrr \\
        --config.weights.vgg=vgg19.pth

Published result: CUFED5 27.17 dB / 0.804 (27.03 dB / 0.800 without).
"""

from ml_collections import ConfigDict

from configs import ttsr


def get_config() -> ConfigDict:
    c = ttsr.get_config()
    c.loss.rtrr = 0.4
    return c
