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
from rrsr_jax.models import published
from rrsr_jax.weights import rules, rules_refsr


def _square(side: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((1, side, side, 3), np.float32)


_LR, _REF = _square(8), _square(32)


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
      renamed: returns the arrays of a checkpoint in this layout, given those of any layout in which the network is published.
      counters: whether its layout counts the batches of each batch normalisation, as PyTorch does.
      discriminator: whether it is a discriminator: Flax variables, not only parameters.
      url: where to download it; the file's name ends with the first digits of its SHA-256.
    """

    name: str
    layout: str
    template: Callable[[], Mapping[str, Any]]
    rules: rules.Rules
    module: str = ""
    left_out: str = ""
    added: Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]] = lambda _: {}
    renamed: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda state_dict: state_dict
    counters: bool = True
    discriminator: bool = False
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
        template=lambda: _params(published("vgg19"), _REF),
        rules=rules.VGG,
        module="vgg",
        left_out=r"(features\.(30|32|34)|classifier\.[036])\.(weight|bias)",
        url="https://download.pytorch.org/models/vgg19-dcbb9e9d.pth",
    ),
    Kind(  # torchvision's VGG-16 up to conv3_3; from there on VGG-19 differs
        name="vgg16",
        layout="vgg16",
        template=lambda: _params(published("vgg16"), _REF),
        rules=rules.VGG,
        left_out=r"(features\.(17|19|21|24|26|28)|classifier\.[036])\.(weight|bias)",
        url="https://download.pytorch.org/models/vgg16-397923af.pth",
    ),
    Kind(  # C2-Matching's correspondence network
        name="correspondence",
        layout="c2_extractor",
        template=lambda: _params(published("correspondence"), _REF, _REF),
        rules=rules.CORRESPONDENCE,
        module="correspondence",
    ),
    Kind(  # the trained parameters of RRSR
        name="rrsr",
        layout="rrsr_restoration",
        template=lambda: _without_modules(published("rrsr")),
        rules=rules.RRSR,
    ),
    Kind(  # the trained parameters of C2-Matching
        name="c2_matching",
        layout="c2_restoration",
        template=lambda: _without_modules(published("c2_matching")),
        rules=rules.C2_MATCHING,
    ),
    Kind(  # the image discriminator of the GAN stage: `params` and `batch_stats`
        name="discriminator",
        layout="c2_discriminator",
        template=lambda: _variables(published("discriminator"), _REF, train=False),
        rules=rules.DISCRIMINATOR,
        discriminator=True,
    ),
    Kind(  # TTSR with its texture extractor
        name="ttsr",
        layout="ttsr",
        template=lambda: _params(published("ttsr"), _LR, _REF),
        rules=rules.TTSR,
        left_out=r"LTE_copy\..*",
        added=rules.ttsr_extractor_copy,
    ),
    Kind(
        name="masa",
        layout="masa",
        template=lambda: _params(published("masa"), _LR, _REF),
        rules=rules.MASA,
    ),
    Kind(
        name="crossnet",
        layout="crossnet",
        template=lambda: _params(published("crossnet"), _LR, _REF),
        rules=rules_refsr.CROSSNET,
    ),
    Kind(  # SRNTT with its running statistics, without its encoder
        name="srntt",
        layout="srntt",
        template=lambda: _without_modules(published("srntt")),
        rules=rules_refsr.SRNTT,
        renamed=rules_refsr.srntt_names,
        counters=False,
    ),
    Kind(  # MatConvNet's VGG-19 up to relu5_1, the authors' encoder of SRNTT, under torchvision's names
        name="srntt_vgg19",
        layout="srntt_vgg19",
        template=lambda: _params(published("srntt_vgg19"), _REF),
        rules=rules.VGG,
    ),
    Kind(
        name="ssen",
        layout="ssen",
        template=lambda: _params(published("ssen"), _LR, _REF),
        rules=rules_refsr.SSEN,
    ),
    *(
        Kind(  # DCSR with the encoder that matches
            name=name,
            layout=layout,
            template=functools.partial(lambda layout: _params(published(layout), _LR, _REF), layout),
            rules=rules_refsr.DCSR,
            left_out=r"feature_match\.sub_mean\.(weight|bias)",
            added=rules_refsr.dcsr_normalisation,
        )
        for name, layout in (("dcsr", "dcsr_x4"), ("dcsr_x2", "dcsr_x2"))
    ),
    Kind(  # torchvision's VGG-19 up to relu5_4, for perceptual losses
        name="vgg19_full",
        layout="vgg19_full",
        template=lambda: _params(published("vgg19_full"), _REF),
        rules=rules.VGG,
        left_out=r"classifier\.[036]\.(weight|bias)",
    ),
    *(
        Kind(
            name=name,
            layout=name,
            template=functools.partial(lambda name: _params(published(name), _LR, _REF), name),
            rules=rules.nlsn(groups),
            left_out=r"(sub|add)_mean\.(weight|bias)",
            added=rules.nlsn_shift,
            renamed=rules.check_nlsn_shift,
        )
        for name, groups in (("nlsn", 4), ("nlsn_small", 1))  # the small one is that of the golden arrays
    ),
    Kind(  # SRGAN's generator with its running statistics
        name="srgan",
        layout="srgan",
        template=lambda: _params(published("srgan"), _LR, _REF),
        rules=rules.SRGAN,
    ),
    Kind(
        name="srgan_discriminator",
        layout="srgan_discriminator",
        template=lambda: _variables(published("srgan_discriminator"), _square(96), train=False),
        rules=rules.SRGAN_DISCRIMINATOR,
        discriminator=True,
    ),
    Kind(  # the generator of BasicSR's MSRGAN
        name="msrresnet",
        layout="msrresnet",
        template=lambda: _params(published("msrresnet"), _LR, _REF),
        rules=rules.MSRRESNET,
    ),
    Kind(  # ESRGAN's generator; also RRDB_PSNR and others of this architecture
        name="esrgan",
        layout="esrgan",
        template=lambda: _params(published("esrgan"), _LR, _REF),
        rules=rules.ESRGAN,
        renamed=rules.esrgan_names,
    ),
    Kind(  # ESRGAN's discriminator, for images of 128 x 128
        name="vgg_style_discriminator",
        layout="vgg_style_discriminator",
        template=lambda: _variables(published("vgg_style_discriminator"), _square(128), train=False),
        rules=rules.VGG_STYLE_DISCRIMINATOR,
        discriminator=True,
    ),
    Kind(
        name="ranksrgan",
        layout="ranksrgan",
        template=lambda: _params(published("ranksrgan"), _LR, _REF),
        rules=rules.RANKSRGAN,
    ),
    Kind(
        name="ranksrgan_ranker",
        layout="ranksrgan_ranker",
        template=lambda: _variables(published("ranksrgan_ranker"), _square(32), train=False),
        rules=rules.RANKER,
    ),
    Kind(  # RankSRGAN's discriminator, for images of 296 x 296
        name="ranksrgan_discriminator",
        layout="ranksrgan_discriminator",
        template=lambda: _variables(published("ranksrgan_discriminator"), _square(296), train=False),
        rules=rules.VGG_STYLE_DISCRIMINATOR,
        discriminator=True,
    ),
    Kind(
        name="enet",
        layout="enet",
        template=lambda: _params(published("enet"), _LR, _REF),
        rules=rules.ENET,
        renamed=rules.tensorflow_to_torch,
    ),
    Kind(
        name="enet_discriminator",
        layout="enet_discriminator",
        template=lambda: _variables(published("enet_discriminator"), _square(128), train=False),
        rules=rules.ENET_DISCRIMINATOR,
        renamed=rules.tensorflow_to_torch,
        discriminator=True,
    ),
    Kind(  # the network that measures LPIPS 0.1 by VGG-16: torchvision's VGG-16, and weights that LPIPS publishes
        name="lpips",
        layout="lpips",
        template=lambda: _params(published("lpips"), _REF, _REF),
        rules=rules.LPIPS,
        left_out=r"classifier\.[036]\.(weight|bias)|scaling_layer\.(shift|scale)|lins\.\d\.model\.1\.weight",
        renamed=rules.torchvision_names,
    ),
    Kind(  # the network that measures DISTS: torchvision's VGG-16, and weights that DISTS publishes
        name="dists",
        layout="dists",
        template=lambda: _params(published("dists"), _REF, _REF),
        rules=rules.DISTS,
        left_out=r"classifier\.[036]\.(weight|bias)|mean|std|stage\d\.\d+\.filter",
        renamed=rules.torchvision_names,
    ),
)
