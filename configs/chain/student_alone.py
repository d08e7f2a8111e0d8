"""All stages in small, beside the chain: a student that is not shown what its teacher finds. Published result: none."""

from ml_collections import ConfigDict

from configs.chain import student


def get_config() -> ConfigDict:
    c = student.get_config()
    c.loss.distillation = 0.0
    return c
