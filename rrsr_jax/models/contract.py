"""The contract between a model and the rest of the project.

A model is a Flax module that is called as `sr = model.apply({"params": params}, lr, ref)`:

    lr   (N, h, w, 3) float in [0, 1], the low-resolution images
    ref  (N, H, W, 3) float in [0, 1], one reference for each, of any size
    sr   (N, 4h, 4w, 3) float; values outside [0, 1] are allowed and clipped where images are saved

Evaluation pads images to few common sizes, and a model can say how it handles padding. A model that behaves differently in
training says so, too. `Contract` has all of this, `read_contract` finds it in a module and checks the call.
"""

import dataclasses
import inspect
from collections.abc import Sequence

import flax.linen as nn
import jax
import numpy as np

from rrsr_jax.errors import InputError

SCALES = (1, 2, 4)


@dataclasses.dataclass(frozen=True)
class Contract:
    """How a model handles padding, and training. The defaults are those of a module that has nothing but the call.

    Attributes:
      takes_valid: the call has a third argument, `valid=None`: (N, 2) int32, height and width of the part of each `lr` that is
        not padding, in pixels of `lr`. A model that takes statistics over the image needs it.
      reach: attribute `reach` of the module. No pixel of `lr` changes the result further away than this many pixels of `lr`,
        apart from statistics over the image. Evaluation leaves out padding beyond it. None if there is no such limit.
      pads_itself: attribute `pads_itself` of the module. The model pads images of any size as its authors do. Evaluation gives it
        both images without any padding, and compiles it for every pair of sizes.
      takes_train: the call has an argument `train=False`; training sets it. New running statistics are then in the collection
        `batch_stats`, if that is mutable, by the paths that the old ones have among the parameters: see `layers.BatchNorm`.
      generators: attribute `generators` of the module, names of the generators of random numbers that it draws from in training.
        Without them, its result is always the same.
    """

    takes_valid: bool = False
    reach: int | None = None
    pads_itself: bool = False
    takes_train: bool = False
    generators: tuple[str, ...] = ()


def read_contract(model: nn.Module) -> Contract:
    """What `model` says about padding and training.

    Raises:
      InputError: the module cannot be called with `(lr, ref)`, or `reach` or `pads_itself` has a wrong type.
    """
    name, signature = type(model).__name__, inspect.signature(type(model).__call__)
    try:
        signature.bind(model, "lr", "ref")
    except TypeError as error:
        raise InputError(
            f"model {name}: a call (lr, ref) or (lr, ref, valid=None) expected, got {signature}: {error}; "
            "see rrsr_jax/models/contract.py"
        ) from error
    reach, pads_itself = getattr(model, "reach", None), getattr(model, "pads_itself", False)
    if reach is not None and (not isinstance(reach, int) or reach < 0):
        raise InputError(f"model {name}: reach: a number of pixels, or None for no limit, expected, got {reach!r}")
    if not isinstance(pads_itself, bool):
        raise InputError(f"model {name}: pads_itself: True or False expected, got {pads_itself!r}")
    return Contract(
        takes_valid="valid" in signature.parameters,
        reach=reach,
        pads_itself=pads_itself,
        takes_train="train" in signature.parameters,
        generators=tuple(getattr(model, "generators", ())),
    )


def check_images(**images: jax.Array) -> None:
    """Raises ValueError unless every image is a (N, H, W, 3) float batch, all with one N."""
    sizes = {}
    for name, image in images.items():
        if image.ndim != 4 or image.shape[-1] != 3:
            raise ValueError(f"{name}: a batch of RGB images (N, H, W, 3) expected, got shape {image.shape}")
        if not jax.numpy.issubdtype(image.dtype, jax.numpy.floating):
            raise ValueError(
                f"{name}: floating point in [0, 1] expected, got {image.dtype}; divide 8-bit images by 255"
            )
        sizes[name] = image.shape[0]
    if len(set(sizes.values())) > 1:
        raise ValueError(f"batches of one size expected, got {sizes}")


def as_references(
    lr: jax.Array, ref: jax.Array | Sequence[jax.Array], valid_ref: jax.Array | Sequence[jax.Array] | None
) -> tuple[Sequence[jax.Array], Sequence[jax.Array] | None]:
    """`ref` and `valid_ref` of a model that takes one reference or a sequence of them, as sequences.

    Raises ValueError for images that `check_images` refuses, and for a `valid_ref` that is not (N, 2).
    """
    refs = (ref,) if isinstance(ref, jax.Array | np.ndarray) else ref
    valid_refs = (valid_ref,) if isinstance(valid_ref, jax.Array | np.ndarray) else valid_ref
    check_images(lr=lr, **{f"ref[{i}]" if len(refs) > 1 else "ref": image for i, image in enumerate(refs)})
    check_valid(lr.shape[0], valid_ref=valid_refs or [])
    return refs, valid_refs


def check_valid(batch: int, **sizes: Sequence[jax.Array]) -> None:
    """Raises ValueError unless all arrays are the height and width of each image of a batch, (batch, 2)."""
    for name, arrays in sizes.items():
        for array in arrays:
            if np.shape(array) != (batch, 2):
                raise ValueError(
                    f"{name}: height and width of each image, ({batch}, 2), expected, got {np.shape(array)}"
                )
