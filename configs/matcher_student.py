"""The correspondence net that super-resolution uses: learns from its teacher to match the upsampled low-resolution image.

    python -m rrsr_jax.main --config=configs/matcher_student.py --workdir=runs/matcher_student \\
        --config.init_from=runs/matcher_teacher

Ends with the share of correspondences within one cell, `lr_hr`, on the warped inputs of CUFED5. Published result: none.
"""

from ml_collections import ConfigDict

from configs import matcher_teacher


def get_config() -> ConfigDict:
    c = matcher_teacher.get_config()
    c.stage = "student"
    c.loss.distillation = 15.0
    c.steps = 75_000
    c.decay_steps = (72_545,)
    return c
