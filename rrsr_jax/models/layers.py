"""Building blocks that several networks share.

`dtype` is that of a module's computation and output. Parameters, and the sums within a convolution, are float32.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from jax.nn.initializers import Initializer
from jax.typing import DTypeLike

# "Every conv and linear N(0, 0.02), bias 0" (the authors' release).
normal_init = nn.initializers.normal(0.02)
conv3x3 = functools.partial(nn.Conv, kernel_size=(3, 3), padding=1, kernel_init=normal_init)
# PyTorch's default, for the models whose publications name no other.
default_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def default_inits(fan_in: int) -> dict[str, Any]:
    """PyTorch's `kernel_init` and `bias_init` of a layer with `fan_in` inputs: both uniform within 1 / sqrt(fan_in)."""
    bound = fan_in**-0.5

    def bias_init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return {"kernel_init": default_init, "bias_init": bias_init}


def default_conv(x: jax.Array, features: int, *, size: int = 3, strides: int = 1, name: str) -> jax.Array:
    """A convolution `size` x `size` with padding `size` // 2 and PyTorch's initial parameters; a layer of the calling module."""
    inits = default_inits(size**2 * x.shape[-1])
    return nn.Conv(features, (size, size), strides=strides, padding=size // 2, **inits, name=name)(x)


def he_init(gain: float = 1.0) -> Initializer:
    """`gain` times N(0, 2 / fan_in) (He et al. 2015)."""
    return nn.initializers.variance_scaling(2 * gain**2, "fan_in", "normal")


def leaky_relu(x: jax.Array) -> jax.Array:
    """LeakyReLU with slope 0.1: RRSR's activation outside residual blocks."""
    return nn.leaky_relu(x, 0.1)


class ResidualBlock(nn.Module):
    """x + scale conv(activation(conv(x))), without normalisation; (N, H, W, features) to the same."""

    features: int
    dtype: DTypeLike = jnp.float32
    scale: float = 1.0
    kernel_init: Initializer = normal_init
    bias_init: Initializer = nn.initializers.zeros
    activation: Callable[[jax.Array], jax.Array] = nn.relu

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        conv = functools.partial(
            conv3x3, self.features, dtype=self.dtype, kernel_init=self.kernel_init, bias_init=self.bias_init
        )
        y = conv(name="conv2")(self.activation(conv(name="conv1")(x)))
        return x + (y if self.scale == 1 else self.scale * y)


class PReLU(nn.Module):
    """max(x, 0) + slope min(x, 0) with one trained slope, initially 0.25, for all channels."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        slope = self.param("slope", nn.initializers.constant(0.25), (1,))
        return jnp.maximum(x, 0) + slope.reshape((1,) * x.ndim) * jnp.minimum(x, 0)


STATISTICS = ("mean", "var")  # names of running statistics, also where they are among the parameters


class BatchNorm(nn.Module):
    """PyTorch's batch normalisation over all axes but the last: eps 1e-5, momentum 0.1.

    The running mean and variance are `mean` and `var` in the collection `batch_stats`, or, with `in_params`, among the
    parameters: a super-resolution model has no other collection. There they get no gradient. In both cases a call with `train`
    and with `batch_stats` mutable gives the new ones in that collection.

    Attributes:
      in_params: see above.
      unbiased: whether the running variance takes the unbiased variance of the batch, as in PyTorch, or, as in TensorFlow, the
        one that normalises it.
      scale_init: of the factors after the normalisation.
      axis_name: mesh axis of the devices that share a batch; its statistics are taken over all of them.
    """

    in_params: bool = False
    unbiased: bool = True
    scale_init: Initializer = nn.initializers.ones
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """(N, ..., C) to the same. With `train`, normalised by the statistics of the batch, else by the running ones."""
        channels, shape = x.shape[-1:], (1,) * (x.ndim - 1) + x.shape[-1:]
        scale = self.param("scale", self.scale_init, channels)
        bias = self.param("bias", nn.initializers.zeros, channels)
        initial = {"mean": jnp.zeros, "var": jnp.ones}
        if self.in_params:
            running = {
                name: jax.lax.stop_gradient(self.param(name, lambda _, s, f=f: f(s), channels))
                for name, f in initial.items()
            }
        else:
            running = {name: self.variable("batch_stats", name, f, channels).value for name, f in initial.items()}
        if not train:
            mean, var = running["mean"], running["var"]
        else:
            axes, average = tuple(range(x.ndim - 1)), self._average
            mean = average(x.mean(axes))
            var = average(((x - mean.reshape(shape)) ** 2).mean(axes))
            count = x.size // x.shape[-1] * (1 if self.axis_name is None else jax.lax.axis_size(self.axis_name))
            if self.is_mutable_collection("batch_stats") and not self.is_initializing():
                seen = var * count / (count - 1) if self.unbiased else var
                for name, of_batch in zip(STATISTICS, (mean, seen), strict=True):
                    self.put_variable("batch_stats", name, 0.9 * running[name] + 0.1 * of_batch)
        scale = scale * jax.lax.rsqrt(var + 1e-5)
        return (x - mean.reshape(shape)) * scale.reshape(shape) + bias.reshape(shape)

    def _average(self, x: jax.Array) -> jax.Array:
        return x if self.axis_name is None else jax.lax.pmean(x, self.axis_name)


def pad_to_multiple(x: jax.Array, multiple: int) -> jax.Array:
    """Extends (N, H, W, C) to the next multiples of `multiple` in height and width, by repeating the last row and column."""
    return jnp.pad(x, ((0, 0), (0, -x.shape[1] % multiple), (0, -x.shape[2] % multiple), (0, 0)), mode="edge")


def pixel_shuffle(x: jax.Array, factor: int = 2) -> jax.Array:
    """(N, H, W, C factor^2), channels ordered (c, dy, dx), to (N, factor H, factor W, C)."""
    return rearrange(x, "n h w (c dy dx) -> n (h dy) (w dx) c", dy=factor, dx=factor)


def depth_to_space(x: jax.Array, factor: int = 2) -> jax.Array:
    """TensorFlow's pixel shuffle: as `pixel_shuffle`, but with channels ordered (dy, dx, c)."""
    return rearrange(x, "n h w (dy dx c) -> n (h dy) (w dx) c", dy=factor, dx=factor)


def nearest_upsample(x: jax.Array, factor: int = 2) -> jax.Array:
    """Every pixel `factor` x `factor` times: (N, H, W, C) to (N, factor H, factor W, C)."""
    return x.repeat(factor, 1).repeat(factor, 2)


class UpConv(nn.Module):
    """Transposed convolution to twice the size, (N, H, W, C) to (N, 2H, 2W, features).

    The same as PyTorch's ConvTranspose2d with stride 2, padding 1 and, for `size` 3, output padding 1. The kernel is
    (size, size, features, C).

    Attributes:
      size: 3 or 4.
      default_bias: whether the bias starts as PyTorch's instead of zero.
    """

    features: int
    size: int = 3
    default_bias: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        inits = default_inits(self.size**2 * self.features)
        kernel = self.param("kernel", inits["kernel_init"], (self.size, self.size, self.features, x.shape[-1]))
        bias_init = inits["bias_init"] if self.default_bias else nn.initializers.zeros
        bias = self.param("bias", bias_init, (self.features,))
        return _transposed_conv(x, kernel) + bias.reshape(1, 1, 1, -1)


def _strided_conv(x, kernel):
    dims = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (2, 2), ((1, 1), (1, 1)), dimension_numbers=dims)


@jax.custom_vjp
def _transposed_conv(x, kernel):
    """The transpose of the strided convolution with the same kernel. The gradients of each are computed with the other.

    Without this rule, JAX computes the kernel's gradient as a dilated convolution with a window as large as the image, and the
    gradients take 15 to 20 times as long (CPU, 80x80x64).
    """
    n, h, w, _ = x.shape
    large = jax.ShapeDtypeStruct((n, 2 * h, 2 * w, kernel.shape[2]), x.dtype)
    return jax.linear_transpose(lambda y: _strided_conv(y, kernel), large)(x)[0]


def _transposed_conv_backward(saved, cotangent):
    x, kernel = saved
    dx, of_kernel = jax.vjp(lambda k: _strided_conv(cotangent, k), kernel)
    return dx, *of_kernel(x)


_transposed_conv.defvjp(lambda x, kernel: (_transposed_conv(x, kernel), (x, kernel)), _transposed_conv_backward)


def mean_of_valid(x: jax.Array, valid: jax.Array | None) -> jax.Array:
    """Mean over the pixels that are not padding, (N, H, W, C) to (N, C) in float32; `valid` (N, 2) is their height and width."""
    x = x.astype(jnp.float32)
    if valid is None:
        return x.mean((1, 2))
    rows = jnp.arange(x.shape[1])[None] < valid[:, :1]
    columns = jnp.arange(x.shape[2])[None] < valid[:, 1:]
    weight = (rows[:, :, None] & columns[:, None]).astype(x.dtype)
    return jnp.einsum("nhwc,nhw->nc", x, weight) / weight.sum((1, 2))[:, None]
