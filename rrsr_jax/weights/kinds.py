"""The table of weight kinds: everything that differs between one published checkpoint and another.

Support for another checkpoint is one entry in `KINDS`, with its renaming rules in `rules.py`.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from rrsr_jax.errors import InputError
from rrsr_jax.models.c2_matching import C2Matching
from rrsr_jax.models.correspondence import CorrespondenceNet
from rrsr_jax.models.discriminator import Discriminator
from rrsr_jax.models.encoders import VGG
from rrsr_jax.models.masa import MASA
from rrsr_jax.models.rrsr import RRSR
from rrsr_jax.models.ttsr import TTSR
from rrsr_jax.weights import rules

_LR = jax.ShapeDtypeStruct((1, 8, 8, 3), np.float32)
_REF = jax.ShapeDtypeStruct((1, 32, 32, 3), np.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of weights.

    Attributes:
      name: what users call it, `--kind=correspondence`.
      layout: what its PyTorch layout is called, `c2_extractor`; all functions take either name.
      template: returns the Flax variables as `jax.ShapeDtypeStruct`s, at their published size.
      rules: PyTorch module names by Flax module path, see `rules.py`.
      module: the module of a super-resolution model that these weights fill; empty if they are no such module.
      left_out: regular expression of keys that a checkpoint may hold and the Flax variables do not.
      added: returns what a checkpoint holds besides the translated arrays, given these.
      url: where to download it; the file's name ends with the first digits of its SHA-256.
    """

    name: str
    layout: str
    template: Callable[[], Mapping[str, Any]]
    rules: rules.Rules
    module: str = ""
    left_out: str = ""
    added: Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]] = lambda _: {}
    url: str = ""

    @property
    def setting(self) -> str:
        """Its name in `config.weights`: the module's where it fills one."""
        return self.module or self.name


def find(name: str) -> Kind:
    """The kind with this name or layout.

    Raises:
      InputError: there is none.
    """
    for kind in KINDS:
        if name in (kind.name, kind.layout):
            return kind
    raise InputError(f"unknown kind of weights {name!r}; there are: {', '.join(kind.name for kind in KINDS)}")


def _variables(network: nn.Module, *images: jax.ShapeDtypeStruct, **options: Any) -> Mapping[str, Any]:
    """Shapes of a network's variables; nothing is computed."""
    return jax.eval_shape(functools.partial(network.init, **options), jax.random.key(0), *images)


def _params(network: nn.Module, *images: jax.ShapeDtypeStruct) -> Mapping[str, Any]:
    return _variables(network, *images)["params"]


def _without_modules(model: nn.Module) -> Mapping[str, Any]:
    """A model's parameters without the modules that have a kind of their own."""
    modules = {kind.module for kind in KINDS}
    return {name: value for name, value in _params(model, _LR, _REF).items() if name not in modules}


KINDS = (
    Kind(  # torchvision's VGG-19 up to relu5_1
        name="vgg19",
        layout="vgg19",
        template=lambda: _params(VGG("relu5_1"), _REF),
        rules=rules.VGG,
        module="vgg",
        left_out=r"(features\.(30|32|34)|classifier\.[036])\.(weight|bias)",
        url="https://download.pytorch.org/models/vgg19-dcbb9e9d.pth",
    ),
    Kind(  # torchvision's VGG-16 up to conv3_3; from there on VGG-19 differs
        name="vgg16",
        layout="vgg16",
        template=lambda: _params(VGG("conv3_3"), _REF),
        rules=rules.VGG,
        left_out=r"(features\.(17|19|21|24|26|28)|classifier\.[036])\.(weight|bias)",
        url="https://download.pytorch.org/models/vgg16-397923af.pth",
    ),
    Kind(  # C2-Matching's correspondence network
        name="correspondence",
        layout="c2_extractor",
        template=lambda: _params(CorrespondenceNet(), _REF, _REF),
        rules=rules.CORRESPONDENCE,
        module="correspondence",
    ),
    Kind(  # the trained parameters of RRSR
        name="rrsr",
        layout="rrsr_restoration",
        template=lambda: _without_modules(RRSR()),
        rules=rules.RRSR,
    ),
    Kind(  # the trained parameters of C2-Matching
        name="c2_matching",
        layout="c2_restoration",
        template=lambda: _without_modules(C2Matching()),
        rules=rules.C2_MATCHING,
    ),
    Kind(  # the image discriminator of the GAN stage: `params` and `batch_stats`
        name="discriminator",
        layout="c2_discriminator",
        template=lambda: _variables(Discriminator(), _REF, train=False),
        rules=rules.DISCRIMINATOR,
    ),
    Kind(  # TTSR with its texture extractor
        name="ttsr",
        layout="ttsr",
        template=lambda: _params(TTSR(), _LR, _REF),
        rules=rules.TTSR,
        left_out=r"LTE_copy\..*",
        added=rules.ttsr_extractor_copy,
    ),
    Kind(
        name="masa",
        layout="masa",
        template=lambda: _params(MASA(), _LR, _REF),
        rules=rules.MASA,
    ),
)
