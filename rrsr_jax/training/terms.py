"""Terms of the GAN stage that look at a result through a network that is not trained, or through the model's own features."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
from ml_collections import ConfigDict

from rrsr_jax.models.encoders import IMAGENET_MEAN, IMAGENET_STD, VGG, layer_names
from rrsr_jax.models.ranksrgan import Ranker
from rrsr_jax.training import losses_table1
from rrsr_jax.training.passes import over_devices
from rrsr_jax.training.step import DATA_AXIS
from rrsr_jax.workdir.state import TrainState

_CONTEXT = "relu3_4"
# The layers of VGG-19 that a term of the loss looks at; those of `perceptual` and `texture` are in the config.
_LAYERS = {
    "contextual_ref": (_CONTEXT,),
    "contextual_hr": (_CONTEXT,),
    "texture_transfer": ("relu3_1", "relu2_1", "relu1_1"),
}
# The last layer of the network as most of this project uses it; the weights of a longer one are a kind of their own.
_SHORT = "relu5_1"


def feature_layers(config: ConfigDict) -> tuple[str, ...]:
    """The layers of VGG-19 that the terms of the loss look at, from first to last; empty without such a term."""
    weights, found = config.loss.to_dict(), set()
    for term in ("perceptual", "texture"):
        if weights.get(term):
            found |= set(config[term].layer_weights)
    for term, layers in _LAYERS.items():
        if weights.get(term):
            found |= set(layers)
    return tuple(name for name in layer_names() if name in found)


def feature_network(config: ConfigDict, model: nn.Module) -> VGG:
    """VGG-19 up to the last of `feature_layers`, with the colours of the model's own encoder where it has any."""
    layers = feature_layers(config)
    mean, std = getattr(model, "vgg_mean", IMAGENET_MEAN), getattr(model, "vgg_std", IMAGENET_STD)
    return VGG(layers[-1], others=layers[:-1], mean=mean, std=std)


def feature_kind(config: ConfigDict) -> str:
    """The kind of weights, `config.weights.vgg`, that `feature_network` needs: an imported folder holds one of them."""
    names = layer_names()
    return "vgg19_full" if names.index(feature_layers(config)[-1]) > names.index(_SHORT) else "vgg19"


def build_ranker(config: ConfigDict) -> Ranker:
    """RankSRGAN's Ranker, of the size that `config.ranker` says."""
    return Ranker(**config.ranker.to_dict())


def judged_terms(
    state: TrainState,
    images: Mapping[str, jax.Array],
    batch: Mapping[str, jax.Array],
    config: ConfigDict,
    model: nn.Module,
) -> dict[str, jax.Array]:
    """The unweighted terms of weight above zero that compare more than pixels, but not the adversarial one.

    | term | what | weights of a network |
    |---|---|---|
    | `perceptual` | features of VGG-19 of `sr` and `hr`, by `config.perceptual` | `frozen["perceptual"]` |
    | `texture` | ENet's: Gram matrices of patches of the same, by `config.texture` | `frozen["perceptual"]` |
    | `texture_transfer` | SRNTT's: Gram matrices of features of `sr` and of the maps it was made with | `frozen["perceptual"]` |
    | `transferal` | TTSR's: the same features and maps of its own extractor, one by one | the generator's `vgg` |
    | `contextual_ref` | DCSR's: features of `sr` found among those of `ref` | `frozen["perceptual"]` |
    | `contextual_hr` | DCSR's: the same with `hr`, both ways, added | `frozen["perceptual"]` |
    | `back_projection` | SRNTT's: `sr` made small again, and `lr` | none |
    | `ranking` | RankSRGAN's: sigmoid of the Ranker's scores, summed over the batch | `frozen["ranker"]` |

    Args:
      state: with the networks.
      images: `sr`, and the intermediates of `passes.INTERMEDIATES`.
      batch: `lr`, `ref` and `hr`.
      config: of the run.
      model: the network that made `images`.
    """
    weights, terms = config.loss.to_dict(), {}
    sr, hr = images["sr"], batch["hr"]
    of_sr: dict[str, jax.Array] = {}
    of_hr: dict[str, jax.Array] = {}
    vgg = {"params": state.frozen.get("perceptual", {})}
    if feature_layers(config):
        network = feature_network(config, model)
        of_sr, of_hr = (network.apply(vgg, image) for image in (sr, hr))  # pyright: ignore[reportAssignmentType]
    maps: list[Any] = [images.get(f"transferred_{scale}x") for scale in (1, 2, 4)]
    if weights.get("perceptual"):
        terms["perceptual"] = losses_table1.perceptual(of_sr, of_hr, axis_name=DATA_AXIS, **config.perceptual)
    if weights.get("texture"):
        terms["texture"] = losses_table1.texture(of_sr, of_hr, **config.texture)
    if weights.get("texture_transfer"):
        score = losses_table1.texture_weights(images["match_score"])
        features = [of_sr[layer] for layer in _LAYERS["texture_transfer"]]
        terms["texture_transfer"] = losses_table1.texture_transfer(maps, features, score)
    if weights.get("transferal"):
        extractor = VGG("relu3_1", channels=model.vgg_channels)  # pyright: ignore[reportAttributeAccessIssue]
        own: Any = extractor.apply({"params": jax.lax.stop_gradient(state.generator["vgg"])}, sr)
        terms["transferal"] = losses_table1.transferal(maps, [own[f"relu{level}_1"] for level in (3, 2, 1)])
    if weights.get("contextual_ref"):
        of_ref: Any = VGG(_CONTEXT, mean=network.mean, std=network.std).apply(vgg, batch["ref"])
        terms["contextual_ref"] = losses_table1.contextual(of_sr[_CONTEXT], of_ref[_CONTEXT], DATA_AXIS)
    if weights.get("contextual_hr"):
        pair = of_sr[_CONTEXT], of_hr[_CONTEXT]
        there, back = (losses_table1.contextual(a, b, DATA_AXIS) for a, b in (pair, pair[::-1]))
        terms["contextual_hr"] = there + back
    if weights.get("back_projection"):
        terms["back_projection"] = losses_table1.back_projection(batch["lr"], sr)
    if weights.get("ranking"):
        score, _ = over_devices(build_ranker(config)).apply(
            state.frozen["ranker"], sr, train=True, mutable=["batch_stats"]
        )
        # The mean over devices of this is the sum over the batch.
        terms["ranking"] = jax.nn.sigmoid(score).sum() * jax.lax.axis_size(DATA_AXIS)
    return terms
