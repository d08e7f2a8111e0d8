"""The correspondence net's teacher: an image and its perspective warp, both sharp; 5,000 steps of batch 8.

    python -m rrsr_jax.main --config=configs/matcher_teacher.py --workdir=runs/matcher_teacher --config.weights.vgg=vgg19.pth

Ends with the share of correspondences within one cell, `hr_hr`, on the warped inputs of CUFED5. Published result: none.
"""

from ml_collections import ConfigDict

from configs import cufed5


def get_config() -> ConfigDict:
    c = cufed5.get_config()
    c.stage = "teacher"
    c.model = ConfigDict(dict(name="correspondence", channels=(64, 128, 256)))
    c.weights = ConfigDict(dict(vgg16="", vgg="", correspondence=""))
    c.data.warp_range = (0.0, 10.0)
    c.batch_size = 8
    c.steps = 5_000
    c.loss = ConfigDict(dict(triplet=1.0, distillation=0.0))
    c.learning_rates = ConfigDict(dict(default=1e-3))
    c.decay_steps = ()
    return c
