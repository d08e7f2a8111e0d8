"""Table 2 in miniature, the correspondence net's student. Published result: none."""

from ml_collections import ConfigDict

from configs.ablations import teacher


def get_config() -> ConfigDict:
    c = teacher.get_config()
    c.stage = "student"
    c.init_from = "teacher"  # of the same list
    c.loss.distillation = 15.0
    c.steps = 2_000
    c.decay_steps = (1_600,)
    return c
