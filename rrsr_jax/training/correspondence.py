"""Training the correspondence net (C2-Matching, Jiang et al. 2021): a teacher, both of whose branches see sharp images, and a
student, whose first branch sees the upsampled low-resolution one. An image corresponds to its own perspective warp.
"""

from collections.abc import Callable, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from rrsr_jax.models.correspondence import correspondences, descriptors
from rrsr_jax.models.resampling import bicubic_upsample
from rrsr_jax.training import losses
from rrsr_jax.training.step import minimise
from rrsr_jax.workdir.state import TrainState

SMALLEST = 80  # pixels a side that leave enough correspondences inside, when warped


def contrastive_terms(
    net: nn.Module, params: Mapping, batch: Mapping[str, jax.Array], weights: Mapping[str, float], blurred: bool
) -> dict[str, jax.Array]:
    """The terms of weight above zero of `triplet` and, with the parameters under `teacher`, `distillation`.

    Args:
      net: the correspondence net.
      params: its parameters.
      batch: `lr`, `hr`, `warped` and `homography`, see `pipeline.WarpedPair`.
      weights: by term.
      blurred: whether the first branch sees the upsampled `lr` (the student) instead of `hr`.
    """
    hr, warped = batch["hr"], batch["warped"]
    position, inside = correspondences(batch["homography"], *hr.shape[1:3])
    target = jnp.where(inside[..., None], jnp.round(position), 0).astype(jnp.int32)
    pair = descriptors(net, params, bicubic_upsample(batch["lr"]) if blurred else hr, warped)
    terms = {}
    if weights["triplet"]:
        terms["triplet"] = losses.triplet(*pair, target, inside)
    if weights["distillation"]:
        teacher = jax.lax.stop_gradient(descriptors(net, params["teacher"], hr, warped))
        terms["distillation"] = losses.distillation(pair, teacher, target, inside)
    return terms


def make_matcher_step(
    net: nn.Module, config: ConfigDict, mesh: Mesh
) -> Callable[[TrainState, Mapping[str, jax.Array]], tuple[TrainState, dict[str, jax.Array]]]:
    """The compiled step of the stages teacher and student, (state, batch) -> (state, metrics); see `step.minimise`."""
    weights, blurred = config.loss.to_dict(), config.stage == "student"
    return minimise(lambda params, batch: contrastive_terms(net, params, batch, weights, blurred), config, mesh)
