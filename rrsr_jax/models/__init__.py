"""The networks: one file for each part of the paper's Fig. 2 and for each other model, and the models that a config can name.

`contract` says what the rest of the project asks of a model. Single-image models have the same call and ignore the reference.
"""

import dataclasses
from collections.abc import Callable, Mapping

import flax.linen as nn
from ml_collections import ConfigDict

from rrsr_jax.errors import InputError
from rrsr_jax.models.c2_matching import C2Matching
from rrsr_jax.models.correspondence import CorrespondenceNet
from rrsr_jax.models.crossnet import CrossNet
from rrsr_jax.models.dcsr import DCSR
from rrsr_jax.models.discriminator import (
    Discriminator,
    ENetDiscriminator,
    SRGANDiscriminator,
    VGGStyleDiscriminator,
)
from rrsr_jax.models.edsr import EDSR
from rrsr_jax.models.encoders import MATCONVNET_MEAN, MATCONVNET_STD, VGG
from rrsr_jax.models.enet import ENet
from rrsr_jax.models.esrgan import RRDBNet
from rrsr_jax.models.masa import MASA
from rrsr_jax.models.msrresnet import MSRResNet
from rrsr_jax.models.nlsn import NLSN
from rrsr_jax.models.quality import DISTS, LPIPS
from rrsr_jax.models.ranksrgan import Ranker, RankSRGAN
from rrsr_jax.models.rcan import RCAN
from rrsr_jax.models.rrsr import RRSR
from rrsr_jax.models.srcnn import SRCNN
from rrsr_jax.models.srgan import SRResNet
from rrsr_jax.models.srntt import SRNTT
from rrsr_jax.models.ssen import SSEN
from rrsr_jax.models.ttsr import TTSR

MODELS = {
    "rrsr": RRSR,
    "c2_matching": C2Matching,
    "masa": MASA,
    "ttsr": TTSR,
    "crossnet": CrossNet,
    "srntt": SRNTT,
    "ssen": SSEN,
    "dcsr": DCSR,
    "srcnn": SRCNN,
    "edsr": EDSR,
    "rcan": RCAN,
    "nlsn": NLSN,
    "srgan": SRResNet,
    "msrresnet": MSRResNet,
    "enet": ENet,
    "esrgan": RRDBNet,
    "ranksrgan": RankSRGAN,
}

# Networks with published weights, by the names of `weights.KINDS`.
_PUBLISHED: dict[str, Callable[[], nn.Module]] = {
    **MODELS,
    "rrsr_restoration": RRSR,
    "c2_restoration": C2Matching,
    "correspondence": CorrespondenceNet,
    "c2_extractor": CorrespondenceNet,
    "srntt": lambda: SRNTT(vgg_mean=MATCONVNET_MEAN, vgg_std=MATCONVNET_STD),
    "srntt_vgg19": lambda: VGG("relu5_1", mean=MATCONVNET_MEAN, std=MATCONVNET_STD),
    "dcsr_x4": DCSR,
    "dcsr_x2": lambda: DCSR(scale=2),
    "discriminator": Discriminator,
    "c2_discriminator": Discriminator,
    "vgg16": lambda: VGG("conv3_3"),
    "vgg19": lambda: VGG("relu5_1"),
    "vgg19_full": lambda: VGG("relu5_4"),
    "nlsn_small": lambda: NLSN(features=32, groups=1, chunk=36, rounds=3),
    "srgan_discriminator": SRGANDiscriminator,
    "vgg_style_discriminator": VGGStyleDiscriminator,
    "ranksrgan_discriminator": lambda: VGGStyleDiscriminator(initial="default"),
    "ranksrgan_ranker": Ranker,
    "enet_discriminator": ENetDiscriminator,
    "lpips": LPIPS,
    "dists": DISTS,
}


def published(kind: str) -> nn.Module:
    """The network that the weights of a kind fill, with its published fields: `published("esrgan")`.

    The weights of `rrsr` and `c2_matching` are those of the trained part; the frozen encoders are kinds of their own.

    Args:
      kind: name of a model, or name or layout of an entry in `rrsr_jax.weights.KINDS`.

    Raises:
      InputError: an unknown kind.
    """
    if kind not in _PUBLISHED:
        raise InputError(f"kind of network: one of {', '.join(_PUBLISHED)} expected, got {kind!r}")
    return _PUBLISHED[kind]()


def build(config: ConfigDict, models: Mapping[str, type[nn.Module]] = MODELS) -> nn.Module:
    """The model that `config.name` names, with the other fields of `config` as its attributes.

    Raises:
      InputError: `models` has no such name, or the model no such attribute.
    """
    fields = config.to_dict()
    name = fields.pop("name")
    if name not in models:
        raise InputError(f"config.model.name: one of {', '.join(models)} expected, got {name!r}")
    known = [field.name for field in dataclasses.fields(models[name]) if field.name not in ("parent", "name")]
    if unknown := [field for field in fields if field not in known]:
        raise InputError(f"config.model: {name} has no {', '.join(unknown)}; it has: {', '.join(known)}")
    return models[name](**fields)
