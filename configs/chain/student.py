"""All stages in small, 2: the correspondence net's student. Published result: none."""

from ml_collections import ConfigDict

from configs.chain import teacher


def get_config() -> ConfigDict:
    c = teacher.get_config()
    c.stage = "student"
    c.init_from = "teacher"  # of the same list
    c.loss.distillation = 15.0
    return c
