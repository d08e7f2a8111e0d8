"""The number of experts in the reference-aware selection of RRSR-rec, by row (section 4.4 of the paper).

    python -m rrsr_jax.main --config=configs/experts.py:8 --workdir=runs/experts/8 \\
        --config.weights.vgg=vgg19.pth --config.init_from=runs/matcher_student
    python -m rrsr_jax.experiments.table --configs configs/experts.py --workdir=runs/experts \\
        --set weights.vgg=vgg19.pth init_from=runs/matcher_student  # all rows

| row | published result on CUFED5 |
|---|---|
| 8 | around 0.02 dB below that of 16 |
| 16 | 28.83 dB / 0.856; the paper's number |
| 32 | around 0.02 dB below that of 16 |

Time on a GPU: not measured yet.
"""

from ml_collections import ConfigDict

from configs import cufed5

ROWS = {str(experts): experts for experts in (8, 16, 32)}


def get_config(row: str) -> ConfigDict:
    c = cufed5.get_config()
    c.model.experts = ROWS[row]
    return c
