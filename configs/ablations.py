"""The paper's Table 2 in miniature, on a folder of photographs, without any pretrained weights.

    python -m rrsr_jax.data.prepare --dataset=photos --source=DIR
    python -m rrsr_jax.experiments.table --configs configs/ablations.py --workdir=runs/ablations [--minutes=25 --seeds=2]

trains a correspondence net, then models of demo size; those with a correspondence net start from it. One row alone:

    python -m rrsr_jax.main --config=configs/ablations.py:c2 --workdir=runs/c2 --config.init_from=runs/student

| row | model | published result at full size on CUFED5 |
|---|---|---|
| teacher | the correspondence net's teacher | none |
| student | the correspondence net | none |
| c2 | C2-Matching*, the baseline | 28.40 dB / 0.846 |
| c2_pfa | with progressive feature alignment | 28.63 dB / 0.851 |
| c2_pfa_ras | and reference-aware selection | 28.70 dB / 0.853 |
| c2_pfa_ras_rtrr | and reciprocal training: RRSR-rec | 28.83 dB / 0.856 |
| c2_rtrr | C2-Matching* with reciprocal training | 28.64 dB / 0.853 |
| masa | MASA* | 27.47 dB / 0.815 |
| masa_rtrr | MASA* with reciprocal training | 27.58 dB / 0.818 |
| ttsr | TTSR* | 27.03 dB / 0.800 |
| ttsr_rtrr | TTSR* with reciprocal training | 27.17 dB / 0.804 |
| untrained_matcher | c2_pfa_ras_rtrr with an untrained correspondence net | none |

A demo-size model trains for half an hour on two CPU cores (3,500 steps).
"""

from ml_collections import ConfigDict

from configs import chain, photos


def _teacher() -> ConfigDict:
    c = chain.get_config("teacher")
    c.data.name = "photos"
    c.steps = 1_500
    c.decay_steps = (1_200,)
    return c


def _student() -> ConfigDict:
    c = _teacher()
    c.stage = "student"
    c.init_from = "teacher"  # a row of the same list
    c.loss.distillation = 15.0
    c.steps = 2_000
    c.decay_steps = (1_600,)
    return c


def _rrsr() -> ConfigDict:
    c = photos.get_config()
    c.init_from = "student"  # a row of the same list
    return c


def _masa() -> ConfigDict:
    c = photos.get_config()
    c.model = ConfigDict(dict(name="masa", features=32, encoder_blocks=1, decoder_blocks=1, blocks=(3, 2, 1)))
    c.weights = ConfigDict(dict(masa=""))
    c.learning_rates = ConfigDict(dict(default=5e-4))
    c.init_gain = 1.0
    return c


def _ttsr() -> ConfigDict:
    c = photos.get_config()
    c.model = ConfigDict(dict(name="ttsr", features=32, blocks=(4, 4, 2, 1), vgg_channels=(16, 32, 64)))
    c.weights = ConfigDict(dict(vgg="", ttsr=""))
    # At 1e-3 all outputs soon lie where the clipping has no gradient.
    c.learning_rates = ConfigDict(dict(default=3e-4, vgg=3e-4))
    c.init_gain = 1.0
    return c


BASELINE = {"model.alignments": (1, 1, 1), "model.blocks": (2, 2, 2), "model.experts": 0}
# By row: the config it starts from, and what it changes there.
ROWS = {
    "teacher": (_teacher, {}),
    "student": (_student, {}),
    "c2": (_rrsr, BASELINE | {"loss.rtrr": 0.0}),
    "c2_pfa": (_rrsr, {"model.experts": 0, "loss.rtrr": 0.0}),
    "c2_pfa_ras": (_rrsr, {"loss.rtrr": 0.0}),
    "c2_pfa_ras_rtrr": (_rrsr, {}),
    "c2_rtrr": (_rrsr, BASELINE | {"loss.rtrr": 0.4}),
    "masa": (_masa, {"loss.rtrr": 0.0}),
    "masa_rtrr": (_masa, {"loss.rtrr": 0.4}),
    "ttsr": (_ttsr, {"loss.rtrr": 0.0}),
    "ttsr_rtrr": (_ttsr, {"loss.rtrr": 0.4}),
    "untrained_matcher": (_rrsr, {"init_from": ""}),
}


def get_config(row: str) -> ConfigDict:
    parent, changes = ROWS[row]
    c = parent()
    c.update_from_flattened_dict(changes)
    return c
