"""The paper's Fig. 5(b): the weight of the reciprocal loss in RRSR-rec, by row.

    python -m rrsr_jax.main --config=configs/fig5b.py:0.6 --workdir=runs/fig5b/0.6 \\
        --config.weights.vgg=vgg19.pth --config.init_from=runs/matcher_student
    python -m rrsr_jax.experiments.table --configs configs/fig5b.py --workdir=runs/fig5b \\
        --set weights.vgg=vgg19.pth init_from=runs/matcher_student  # all rows

| row | published result on CUFED5 |
|---|---|
| 0.0 | 28.70 dB / 0.853 (Table 2) |
| 0.2 | a curve without figures |
| 0.4 | 28.83 dB / 0.856 (Table 2); the paper's weight |
| 0.6, 0.8, 1.0 | a curve without figures, which falls after 0.4 |

The paper's text names 0 and 0.4; the other weights are a choice of this project. Time on a GPU: not measured yet.
"""

from ml_collections import ConfigDict

from configs import cufed5

ROWS = {str(weight): weight for weight in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)}


def get_config(row: str) -> ConfigDict:
    c = cufed5.get_config()
    c.loss.rtrr = ROWS[row]
    return c
