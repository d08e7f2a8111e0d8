"""The paper's Table 2: each of RRSR's three additions to C2-Matching, and reciprocal training on three other models.

    python -m rrsr_jax.main --config=configs/table2.py:c2_pfa --workdir=runs/c2_pfa \\
        --config.weights.vgg=vgg19.pth --config.init_from=runs/matcher_student
    python -m rrsr_jax.experiments.table --configs configs/table2.py --workdir=runs/table2 \\
        --set weights.vgg=vgg19.pth init_from=runs/matcher_student  # all rows

| row | model | published result on CUFED5 |
|---|---|---|
| c2 | C2-Matching*, the baseline of both halves | 28.40 dB / 0.846 |
| c2_pfa | left: with progressive feature alignment | 28.63 dB / 0.851 |
| c2_pfa_ras | left: and reference-aware selection | 28.70 dB / 0.853 |
| c2_pfa_ras_rtrr | left: and reciprocal training, which is RRSR-rec (`configs/cufed5.py`) | 28.83 dB / 0.856 |
| c2_rtrr | right: C2-Matching* with reciprocal training | 28.64 dB / 0.853 |
| masa | right: MASA* | 27.47 dB / 0.815 |
| masa_rtrr | right: MASA* with reciprocal training | 27.58 dB / 0.818 |
| ttsr | right: TTSR* | 27.03 dB / 0.800 |
| ttsr_rtrr | right: TTSR* with reciprocal training | 27.17 dB / 0.804 |

The asterisk means: trained by RRSR's authors. Time on a GPU: not measured yet.
"""

from ml_collections import ConfigDict

from configs import c2_matching, cufed5, masa, ttsr

# By row: the config it starts from, and what it changes there.
ROWS = {
    "c2": (c2_matching, {}),
    "c2_pfa": (cufed5, {"model.experts": 0, "loss.rtrr": 0.0}),
    "c2_pfa_ras": (cufed5, {"loss.rtrr": 0.0}),
    "c2_pfa_ras_rtrr": (cufed5, {}),
    "c2_rtrr": (c2_matching, {"loss.rtrr": 0.4}),
    "masa": (masa, {}),
    "masa_rtrr": (masa, {"loss.rtrr": 0.4}),
    "ttsr": (ttsr, {}),
    "ttsr_rtrr": (ttsr, {"loss.rtrr": 0.4}),
}


def get_config(row: str) -> ConfigDict:
    parent, changes = ROWS[row]
    c = parent.get_config()
    c.update_from_flattened_dict(changes)
    return c
