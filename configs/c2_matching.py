"""C2-Matching-rec as the paper trains it, its baseline: RRSR without progressive alignment, selection and reciprocal pass.

    python -m rrsr_jax.main --config=configs/c2_matching.py --workdir=runs/c2_matching \\
        --config.weights.vgg=vgg19.pth --config.weights.correspondence=correspondence.npz

Published results: CUFED5 28.24 dB / 0.841, trained by its own authors; 28.40 dB / 0.846, trained by RRSR's. Time on a GPU: not
measured yet. With reciprocal training: `configs/table2.py:c2_rtrr`.
"""

from ml_collections import ConfigDict

from configs import cufed5


def get_config() -> ConfigDict:
    c = cufed5.get_config()
    c.model.update(name="c2_matching", alignments=(1, 1, 1), blocks=(16, 16, 16), experts=0)
    c.weights = ConfigDict(dict(vgg="", correspondence="", c2_matching=""))
    c.loss.rtrr = 0.0
    return c
