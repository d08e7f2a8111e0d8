"""The correspondence net, in two runs: a teacher on sharp images, then the student that super-resolution uses.

    python -m rrsr_jax.main --config=configs/matcher.py:teacher --workdir=runs/matcher_teacher --config.weights.vgg16=vgg16.pth
    python -m rrsr_jax.main --config=configs/matcher.py:student --workdir=runs/matcher_student \\
        --config.init_from=runs/matcher_teacher

| row | what it learns | steps | published result |
|---|---|---|---|
| teacher | to match a sharp image with its perspective warp | 5,000 | none |
| student | from its teacher, to match the upsampled low-resolution image with the warp | 75,000 | none |

Each ends with the share of correspondences within one cell on the warped inputs of CUFED5: `hr_hr` of sharp images, `lr_hr` of an
upsampled with a sharp one. Time on a GPU: not measured yet.
"""

from ml_collections import ConfigDict

from configs import cufed5


def _teacher() -> ConfigDict:
    c = cufed5.get_config()
    c.stage = "teacher"
    c.model = ConfigDict(dict(name="correspondence", channels=(64, 128, 256)))
    c.weights = ConfigDict(dict(vgg16="", vgg="", correspondence=""))
    c.data.warp_range = (0.0, 10.0)
    c.batch_size = 8
    c.steps = 5_000
    c.loss = ConfigDict(dict(triplet=1.0, info_nce=0.0, distillation=0.0))
    c.learning_rates = ConfigDict(dict(default=1e-3))
    c.decay_steps = ()
    return c


def _student() -> ConfigDict:
    c = _teacher()
    c.stage = "student"
    c.loss.distillation = 15.0
    c.steps = 75_000
    c.decay_steps = (72_545,)
    return c


ROWS = {"teacher": _teacher, "student": _student}


def get_config(row: str) -> ConfigDict:
    return ROWS[row]()
