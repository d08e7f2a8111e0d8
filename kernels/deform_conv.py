"""Modulated deformable convolution (DCNv2, Zhu et al. 2019, eq. 1): the public operation and its dispatch."""

import functools
import logging
from typing import Any

import jax
import jax.numpy as jnp

from kernels import blocks, deform_conv_xla, selfcheck

_LOG = logging.getLogger(__name__)
_CHOICE = "deformable convolution: %s (%s)"


def _on_cuda() -> bool:
    return jax.default_backend() == "gpu" and "rocm" not in jax.devices()[0].client.platform_version.lower()


def _device() -> selfcheck.Device | None:
    """The GPU that the kernels would run on; None where a program is only lowered for one."""
    return jax.local_devices()[0] if jax.default_backend() == "gpu" else None


def _triton(*arrays, interpret=False, **options):
    """The Pallas kernels, imported at their first use."""
    if not interpret and not _on_cuda():
        raise ValueError(
            f"implementation 'triton' needs a CUDA GPU, JAX runs on {jax.default_backend()}; leave it None, or 'xla'"
        )
    from kernels import deform_conv_triton

    return deform_conv_triton.sample_and_multiply(*arrays, interpret=interpret, **options)


# Name -> fn(x, offset, mask, weight, *, stride, padding, dilation) -> (N, Ho, Wo, Co) float32, without the bias.
IMPLEMENTATIONS: dict[str, selfcheck.Implementation] = {
    "xla": deform_conv_xla.sample_and_multiply,
    "triton": _triton,
    "triton_interpreted": functools.partial(_triton, interpret=True),  # on any device, for tests
}


@functools.cache
def default_implementation() -> str:
    """What `implementation=None` stands for: the kernels on a CUDA GPU on which they are right, plain JAX elsewhere.

    Logged once, with the reason. The first call on a GPU checks the kernels, see `selfcheck.fault`. JAX's default backend is what
    counts: to run on the CPU of a machine with a GPU, name `xla`.
    """
    name, reason = "xla", f"JAX runs on {jax.default_backend()}"
    if _on_cuda():
        try:
            from kernels import deform_conv_triton
        except ImportError as error:  # of a jax that has lost Pallas' Triton back end
            reason = f"the kernels cannot be imported: {error}"
        else:
            device, fault = _device(), ""
            if device is not None:
                _LOG.info("deformable convolution: checking the kernels on %s, once", device.device_kind)
                sources = (blocks.__file__, deform_conv_triton.__file__, deform_conv_xla.__file__)
                fault = selfcheck.fault(IMPLEMENTATIONS["triton"], IMPLEMENTATIONS["xla"], device, sources)
            name, reason = ("xla", f"the kernels fail on this GPU: {fault}") if fault else ("triton", "CUDA GPU")
    _LOG.log(logging.WARNING if _on_cuda() and name == "xla" else logging.INFO, _CHOICE, name, reason)
    return name


@functools.cache
def _log_too_large(elements: int) -> None:
    _LOG.warning(_CHOICE, "xla", f"one image takes {elements:,} elements, the kernels address fewer than 2^31")


def _default_for(x: jax.Array, offset: jax.Array, weight: jax.Array) -> str:
    """The default, or plain JAX for images that the kernels cannot address."""
    name = default_implementation()
    if name == "triton":
        elements = blocks.elements(x.shape, offset.shape, weight.shape)
        if elements > blocks.MOST_ELEMENTS:
            _log_too_large(elements)
            return "xla"
    return name


def modulated_deform_conv(
    x: jax.Array,
    offset: jax.Array,
    mask: jax.Array,
    weight: jax.Array,
    bias: jax.Array,
    *,
    stride: int = 1,
    padding: int = 1,
    dilation: int = 1,
    implementation: str | None = None,
    bordered: bool = False,
) -> jax.Array:
    """A 3x3 convolution whose taps are displaced by `offset` and scaled by `mask`, both per deform group.

    Equivalent to this definition, for output pixel (i, j), deform group g and tap t:

        y_t = i * stride - padding + (t // 3) * dilation + offset[n, i, j, g, t, 0]
        x_t = j * stride - padding + (t % 3) * dilation + offset[n, i, j, g, t, 1]
        column[n, i, j, t, g] = mask[n, i, j, g, t] * bilinear(x[n, :, :, g], y_t, x_t)      # zero outside the image
        out[n, i, j] = sum_t column[n, i, j, t] @ weight[t // 3, t % 3] + bias

    A position that is not finite samples zero and has no gradient.

    Args:
      x: (N, H, W, C) features; C is a multiple of G.
      offset: (N, Ho, Wo, G, 9, 2), (dy, dx) in pixels of `x`. In an ordinary convolution Ho and Wo follow from H and W. Here they
        are free, so that features of a reference of any size can be aligned to the input.
      mask: (N, Ho, Wo, G, 9) factors.
      weight: (3, 3, C, Co).
      bias: (Co,).
      stride, padding, dilation: as in a convolution, the same for both axes.
      implementation: one of `IMPLEMENTATIONS`; None for `default_implementation()`, or plain JAX where an image is too large for
        the kernels' 32-bit indices.
      bordered: `x` comes with a border of one pixel of zeros, (N, H + 2, W + 2, C). Where many small outputs sample a large `x`,
        plain JAX then does not copy it each time to add that border.

    Returns:
      (N, Ho, Wo, Co) in the dtype of `x`; sums are float32.

    Raises:
      ValueError: shapes that do not fit, an unknown implementation, or one that cannot run on this device or this size.
    """
    x, offset, mask, weight, bias = (jnp.asarray(a) for a in (x, offset, mask, weight, bias))
    n, _, _, c = _rank("x", x, 4)
    grid = _rank("offset", offset, 6)
    groups = grid[3]
    expected = {
        "offset": (n, *grid[1:3], groups, 9, 2),
        "mask": (n, *grid[1:3], groups, 9),
        "weight": (3, 3, c, _rank("weight", weight, 4)[-1]),
        "bias": (weight.shape[-1],),
    }
    for name, array in dict(offset=offset, mask=mask, weight=weight, bias=bias).items():
        if array.shape != expected[name]:
            raise ValueError(f"{name}: shape {expected[name]} expected for x of shape {x.shape}, got {array.shape}")
    if c % groups:
        raise ValueError(f"x has {c} channels, which {groups} deform groups do not divide")
    name = implementation or _default_for(x, offset, weight)
    if name not in IMPLEMENTATIONS:
        raise ValueError(f"implementation {name!r} is unknown; there are: {', '.join(IMPLEMENTATIONS)}")
    options: dict[str, Any] = dict(stride=stride, padding=padding, dilation=dilation)
    if bordered and name == "xla":
        options["bordered"] = True
    elif bordered:
        x = x[:, 1:-1, 1:-1]
    out = IMPLEMENTATIONS[name](x, offset, mask, weight, **options)
    return (out + bias.astype(jnp.float32).reshape(1, 1, 1, -1)).astype(x.dtype)


def _rank(name: str, array: jax.Array, rank: int) -> tuple[int, ...]:
    if array.ndim != rank:
        raise ValueError(f"{name}: {rank} dimensions expected, got shape {array.shape}")
    return array.shape
