"""All stages in small on the embedded photographs, about 20 minutes on two CPU cores in total.

    python -m rrsr_jax.experiments.table --configs configs/chain.py --workdir=runs/chain

runs them one after another, each from the one before, and prints one table. One stage alone:

    python -m rrsr_jax.main --config=configs/chain.py:student --workdir=runs/student --config.init_from=runs/teacher

| row | stage | published result at full size |
|---|---|---|
| teacher | the correspondence net's teacher | none |
| student | the correspondence net that super-resolution uses | none |
| rec | RRSR-rec with the student's correspondence net | CUFED5 28.83 dB / 0.856 |
| gan | 50 more steps by pixels, then with a discriminator | CUFED5 28.09 dB / 0.835 |
| student_alone | beside the chain: a student that does not see what its teacher finds | none |

The gan row leaves out the perceptual loss, which needs VGG-19's weights (`--set weights.vgg=vgg19.pth loss.perceptual=1e-4`).
"""

from ml_collections import ConfigDict

from configs import cufed5_gan, demo, matcher


def _teacher() -> ConfigDict:
    c = matcher.get_config("teacher")
    c.model.channels = (16, 32, 64)
    c.data.update(name="embedded", patch=96, threads=2, prefetch=4)
    c.batch_size = 4
    c.steps = 700
    c.learning_rates.default = 1e-4  # at 1e-3, without pretrained weights, all descriptors first become the same
    c.decay_steps = (560,)
    c.log_every = 10
    c.image_every = 1_000_000
    c.checkpoint_every = 100
    c.eval.update(sets="embedded")
    return c


def _student() -> ConfigDict:
    c = _teacher()
    c.stage = "student"
    c.init_from = "teacher"  # a row of the same list
    c.loss.distillation = 15.0
    return c


def _rec() -> ConfigDict:
    c = demo.get_config()
    c.init_from = "student"  # a row of the same list
    c.steps = 700
    c.decay_steps = (560,)
    c.eval.references = "reference"
    return c


def _gan() -> ConfigDict:
    c, full = _rec(), cufed5_gan.get_config()
    c.stage = "gan"
    c.init_from = "rec"  # a row of the same list
    c.weights.discriminator = ""
    c.pixel_steps = 50
    c.loss = full.loss
    c.loss.update(perceptual=0.0, adversarial=5e-3)
    c.update(objective=full.objective, penalty=full.penalty, updates=full.updates, perceptual=full.perceptual)
    c.discriminator = ConfigDict(dict(name="rrsr", features=(16, 32, 64), head=128))
    c.learning_rates.update(discriminator=1e-4, default=1e-4, vgg=1e-4)
    c.steps = 250
    c.decay_steps = ()
    return c


def _student_alone() -> ConfigDict:
    c = _student()
    c.loss.distillation = 0.0
    return c


ROWS = {"teacher": _teacher, "student": _student, "rec": _rec, "gan": _gan, "student_alone": _student_alone}


def get_config(row: str) -> ConfigDict:
    return ROWS[row]()
