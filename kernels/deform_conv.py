"""Modulated deformable convolution (DCNv2, Zhu et al. 2019, eq. 1): the public operation and its dispatch."""

import functools
import logging

import jax
import jax.numpy as jnp

from kernels import deform_conv_xla


def _on_cuda() -> bool:
    return jax.default_backend() == "gpu" and "rocm" not in jax.devices()[0].client.platform_version.lower()


def _triton(*arrays, interpret=False, **options):
    """The Pallas kernels, imported only when asked for."""
    if not interpret and not _on_cuda():
        raise ValueError(
            f"implementation 'triton' needs a CUDA GPU, JAX runs on {jax.default_backend()}; leave it None, or 'xla'"
        )
    from kernels import deform_conv_triton

    return deform_conv_triton.sample_and_multiply(*arrays, interpret=interpret, **options)


# Name -> fn(x, offset, mask, weight, *, stride, padding, dilation) -> (N, Ho, Wo, Co) float32, without the bias.
IMPLEMENTATIONS = {
    "xla": deform_conv_xla.sample_and_multiply,
    "triton": _triton,
    "triton_interpreted": functools.partial(_triton, interpret=True),  # anywhere, for tests
}


@functools.cache
def default_implementation() -> str:
    """What `implementation=None` stands for: the kernels on a CUDA GPU, plain JAX elsewhere. Logged once.

    By JAX's default backend: to run on the CPU of a machine with a GPU, name `xla`.
    """
    name, reason = "xla", f"JAX runs on {jax.default_backend()}"
    if _on_cuda():
        try:
            from kernels import deform_conv_triton  # noqa: F401
        except ImportError as error:  # of a jax that has lost Pallas' Triton back end
            reason = f"the kernels cannot be imported: {error}"
        else:
            name, reason = "triton", "CUDA GPU"
    logging.getLogger(__name__).info("deformable convolution: %s (%s)", name, reason)
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
) -> jax.Array:
    """A 3x3 convolution whose taps are displaced by `offset` and scaled by `mask`, both of them per deform group.

    Equivalent to this definition, for output pixel (i, j), deform group g and tap t:

        y_t = i * stride - padding + (t // 3) * dilation + offset[n, i, j, g, t, 0]
        x_t = j * stride - padding + (t % 3) * dilation + offset[n, i, j, g, t, 1]
        column[n, i, j, t, g] = mask[n, i, j, g, t] * bilinear(x[n, :, :, g], y_t, x_t)      # zero outside the image
        out[n, i, j] = sum_t column[n, i, j, t] @ weight[t // 3, t % 3] + bias

    A position that is not finite samples zero and has no gradient.

    Args:
      x: (N, H, W, C) features; C is a multiple of G.
      offset: (N, Ho, Wo, G, 9, 2), (dy, dx) in pixels of `x`. For an ordinary convolution Ho and Wo follow from H and W; any
        other grid is as good, which is how features of a reference of another size are aligned to the input.
      mask: (N, Ho, Wo, G, 9) factors.
      weight: (3, 3, C, Co).
      bias: (Co,).
      stride, padding, dilation: as in a convolution, the same for both axes.
      implementation: one of `IMPLEMENTATIONS`, or None for `default_implementation()`.

    Returns:
      (N, Ho, Wo, Co) in the dtype of `x`; sums are float32.

    Raises:
      ValueError: shapes that do not fit, an unknown implementation, or one that this device cannot run.
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
    name = implementation or default_implementation()
    if name not in IMPLEMENTATIONS:
        raise ValueError(f"implementation {name!r} is unknown; there are: {', '.join(IMPLEMENTATIONS)}")
    out = IMPLEMENTATIONS[name](x, offset, mask, weight, stride=stride, padding=padding, dilation=dilation)
    return (out + bias.astype(jnp.float32)).astype(x.dtype)


def _rank(name: str, array: jax.Array, rank: int) -> tuple[int, ...]:
    if array.ndim != rank:
        raise ValueError(f"{name}: {rank} dimensions expected, got shape {array.shape}")
    return array.shape
