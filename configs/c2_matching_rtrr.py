"""C2-Matching-rec with reciprocal training, weight 0.4: the right half of the paper's Table 2.

    python -m rrsr_jax.main --config=configs/c2_matching_rtrr.py --workdir=runs/c2_matching_rtrr \\
        --config.weights.vgg=vgg19.pth --config.weights.correspondence=correspondence.npz

Published result: CUFED5 28.64 dB / 0.853 (28.40 dB / 0.846 without).
"""

from ml_collections import ConfigDict

from configs import c2_matching


def get_config() -> ConfigDict:
    c = c2_matching.get_config()
    c.loss.rtrr = 0.4
    return c
