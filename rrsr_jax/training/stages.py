"""The stages of training by name; a config names its own.

teacher    the correspondence net, both branches on sharp images
student    the correspondence net as super-resolution uses it: the first branch sees the upsampled low-resolution image
rec        a super-resolution model by its reconstruction, reciprocal or not
gan        a super-resolution model with a discriminator and losses of other networks
ranker     RankSRGAN's Ranker, which such a loss can look through
"""

from jax.sharding import Mesh
from ml_collections import ConfigDict

from rrsr_jax.errors import InputError
from rrsr_jax.training.correspondence import Student, Teacher
from rrsr_jax.training.gan import Gan
from rrsr_jax.training.ranker import RankerStage
from rrsr_jax.training.stage import Stage
from rrsr_jax.training.super_resolution import SuperResolution

STAGES: dict[str, type[Stage]] = {
    "teacher": Teacher,
    "student": Student,
    "rec": SuperResolution,
    "gan": Gan,
    "ranker": RankerStage,
}


def build(config: ConfigDict, mesh: Mesh) -> Stage:
    """The stage that `config.stage` names; InputError for another name, model or test set than there are."""
    if config.stage not in STAGES:
        raise InputError(f"config.stage: one of {', '.join(STAGES)} expected, got {config.stage!r}")
    return STAGES[config.stage](config, mesh)
