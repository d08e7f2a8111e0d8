"""Modulated deformable convolution as fused Pallas kernels (Triton back end, CUDA GPUs).

Sampling, modulation and the product with the weights are one kernel, so that the sampled columns never reach memory. A program
works on a block of output pixels and a block of deform groups. It computes positions once per pixel, group and tap, fetches the
four corners for all channels of the group, and multiplies the interpolated block by the weights of the tap. There are three
kernels: the output; the gradients of features (atomic additions), offsets and mask; the gradient of the weights (partial sums
over slices of the pixels). Corners and sums are float32. The factors of a product have the dtype of `x`.

This is the only file that imports Pallas. Its Triton back end is deprecated since jax 0.11, so nothing else may depend on it.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plt

from kernels import blocks
from kernels.blocks import TAPS, Choice

PIPELINE_DEPTH = 1  # Triton's `num_stages`; more runs out of shared memory


def sample_and_multiply(
    x: jax.Array,
    offset: jax.Array,
    mask: jax.Array,
    weight: jax.Array,
    *,
    stride: int,
    padding: int,
    dilation: int,
    interpret: bool = False,
    choice: Choice | None = None,
) -> jax.Array:
    """`modulated_deform_conv` without the bias, in float32; see there for shapes. `interpret` runs on any device, slowly.
    `choice` takes the place of that of `blocks_for`.

    A batch that int32 indices cannot address is split.

    Raises:
      ValueError: one image alone is too large for them.
    """
    plan = blocks.plan(x.shape, offset.shape, weight.shape)
    choice = choice or blocks.blocks_for(x.shape[-1], str(x.dtype))
    plan = plan._replace(stride=stride, padding=padding, dilation=dilation, interpret=interpret, choice=choice)
    images = blocks.images_at_once(plan)
    if images == plan.n:
        return _sample_and_multiply(plan, x, offset, mask, weight)
    if not images:
        raise ValueError(
            f"implementation 'triton': at most {blocks.MOST_ELEMENTS:,} elements can be addressed, one image takes "
            f"{plan._replace(n=1).elements:,}; leave the implementation None, or name 'xla'"
        )

    def part(start):
        some = slice(start, min(start + images, plan.n))
        return _sample_and_multiply(plan._replace(n=some.stop - start), x[some], offset[some], mask[some], weight)

    return jnp.concatenate([part(start) for start in range(0, plan.n, images)])


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _sample_and_multiply(plan, x, offset, mask, weight):
    plan = plan.of("forward")
    pixels, _, outs = plan.padded
    grid = (pixels // plan.blocks.pixels, outs // plan.out_block)
    (out,) = _call(_forward_kernel, plan, grid, [(pixels, outs)], (x, offset, mask, weight))
    out = out.reshape(pixels, outs)[: plan.pixels, : plan.out_channels]
    return out.reshape(plan.n, plan.out_height, plan.out_width, plan.out_channels)


def _forward(plan, x, offset, mask, weight):
    return _sample_and_multiply(plan, x, offset, mask, weight), (x, offset, mask, weight)


def _backward(plan, residuals, d_out):
    x, offset, mask, weight = residuals
    plan = plan.of("data")
    pixels, groups, _ = plan.padded
    d_x, d_offset, d_mask = _call(
        _data_kernel,
        plan,
        (pixels // plan.blocks.pixels, plan.group_blocks),
        [(x.size,), (pixels, groups, TAPS, 2), (pixels, groups, TAPS)],
        (x, offset, mask, weight, d_out, jnp.zeros(x.size, jnp.float32)),
        input_output_aliases={5: 0},
    )
    d_offset = d_offset.reshape(pixels, groups, TAPS, 2)[: plan.pixels, : plan.groups]
    d_mask = d_mask.reshape(pixels, groups, TAPS)[: plan.pixels, : plan.groups]
    plan = plan.of("weight")
    _, groups, outs = plan.padded
    (partial,) = _call(
        _weight_kernel,
        plan,
        (TAPS * plan.group_blocks, outs // plan.out_block, plan.slices),
        [(plan.slices, TAPS, groups, plan.channel_block, outs)],
        (x, offset, mask, d_out),
    )
    partial = partial.reshape(plan.slices, TAPS, groups, plan.channel_block, outs)
    d_weight = partial.sum(0)[:, : plan.groups, : plan.channels, : plan.out_channels]
    pairs = zip((d_x, d_offset, d_mask, d_weight), (x, offset, mask, weight), strict=True)
    return tuple(gradient.reshape(a.shape).astype(a.dtype) for gradient, a in pairs)


_sample_and_multiply.defvjp(_forward, _backward)


def _call(kernel, plan, grid, out_shapes, arrays, **options):
    """Runs a kernel on flat arrays; results are flat and float32."""
    return pl.pallas_call(
        functools.partial(kernel, plan),
        grid=grid,
        out_shape=[jax.ShapeDtypeStruct((math.prod(shape),), jnp.float32) for shape in out_shapes],
        interpret=plan.interpret,
        compiler_params=plt.CompilerParams(num_warps=plan.blocks.warps, num_stages=PIPELINE_DEPTH),
        name="deform_conv" + kernel.__name__,
        **options,
    )(*(array.ravel() for array in arrays))


class _Block(NamedTuple):
    """Where a block of pixels and groups samples for one tap; arrays are (pixels, groups, 1)."""

    image: jax.Array
    top: jax.Array
    left: jax.Array
    fy: jax.Array
    fx: jax.Array
    inside: jax.Array
    mask: jax.Array


def _divmod(a, b: int):
    """Quotient and remainder for a >= 0. Python's operators also handle signs, which the back end cannot compile."""
    b = jnp.int32(b)
    return jax.lax.div(a, b), jax.lax.rem(a, b)


def _positions(plan, pixel, group, tap, offset_ref, mask_ref) -> _Block:
    p, g = pixel[:, None, None], group[None, :, None]
    valid = (p < plan.pixels) & (g < plan.groups)
    index = jnp.where(valid, (p * plan.groups + g) * TAPS + tap, 0)
    line, column = _divmod(p, plan.out_width)
    image, row = _divmod(line, plan.out_height)
    tap_row, tap_column = _divmod(tap, 3)
    dy = plt.load(offset_ref.at[2 * index], mask=valid, other=0.0).astype(jnp.float32)
    dx = plt.load(offset_ref.at[2 * index + 1], mask=valid, other=0.0).astype(jnp.float32)
    factor = plt.load(mask_ref.at[index], mask=valid, other=0.0).astype(jnp.float32)
    y = dy + (row * plan.stride - plan.padding + tap_row * plan.dilation).astype(jnp.float32)
    x = dx + (column * plan.stride - plan.padding + tap_column * plan.dilation).astype(jnp.float32)
    inside = valid & (y > -1) & (y < plan.height) & (x > -1) & (x < plan.width)  # False for NaN
    y, x = jnp.where(inside, y, 0.0), jnp.where(inside, x, 0.0)
    top, left = jnp.floor(y), jnp.floor(x)
    return _Block(image, top.astype(jnp.int32), left.astype(jnp.int32), y - top, x - left, inside, factor)


def _corners(plan, block, group, x_ref):
    """The four corners for every channel of the groups, (pixels, groups, channels), with index and mask of each."""
    channel = jnp.arange(plan.channel_block)[None, None, :]
    c = group[None, :, None] * plan.channels + channel
    for down in (0, 1):
        for right in (0, 1):
            y, x = block.top + down, block.left + right
            there = block.inside & (y >= 0) & (y < plan.height) & (x >= 0) & (x < plan.width)
            there = there & (channel < plan.channels)
            pixel = (block.image * plan.height + y) * plan.width + x
            index = jnp.where(there, pixel * plan.groups * plan.channels + c, 0)
            yield plt.load(x_ref.at[index], mask=there, other=0.0).astype(jnp.float32), index, there


def _interpolate(block, corners):
    a, b, c, d = corners
    return (1 - block.fy) * ((1 - block.fx) * a + block.fx * b) + block.fy * ((1 - block.fx) * c + block.fx * d)


def _weights(plan, group, tap, out, weight_ref):
    """Weights from the channels of the groups to a block of output channels, (groups * channels, outputs)."""
    channel = jnp.arange(plan.channel_block)[None, :, None]
    g, o = group[:, None, None], out[None, None, :]
    valid = (g < plan.groups) & (channel < plan.channels) & (o < plan.out_channels)
    c = g * plan.channels + channel
    index = jnp.where(valid, (tap * plan.groups * plan.channels + c) * plan.out_channels + o, 0)
    return plt.load(weight_ref.at[index], mask=valid, other=0.0).reshape(-1, out.shape[0])


def _dot(a, b, dtype):
    """(m, k) x (k, n), summed in float32; operands in `dtype`."""
    return plt.dot(a.astype(dtype), b.astype(dtype), precision=jax.lax.Precision.HIGHEST)


def _forward_kernel(plan, x_ref, offset_ref, mask_ref, weight_ref, out_ref):
    pixel = pl.program_id(0) * plan.blocks.pixels + jnp.arange(plan.blocks.pixels)
    out = pl.program_id(1) * plan.out_block + jnp.arange(plan.out_block)

    def step(i, total):
        tap, first = _divmod(i, plan.group_blocks)
        group = first * plan.group_block + jnp.arange(plan.group_block)
        block = _positions(plan, pixel, group, tap, offset_ref, mask_ref)
        corners = [corner for corner, _, _ in _corners(plan, block, group, x_ref)]
        column = (_interpolate(block, corners) * block.mask).reshape(plan.blocks.pixels, -1)
        return total + _dot(column, _weights(plan, group, tap, out, weight_ref), x_ref.dtype)

    zero = jnp.zeros((plan.blocks.pixels, plan.out_block), jnp.float32)
    total = jax.lax.fori_loop(0, TAPS * plan.group_blocks, step, zero)
    plt.store(out_ref.at[pixel[:, None] * plan.padded[2] + out[None]], total)


def _load_d_out(plan, pixel, out, d_out_ref):
    valid = (pixel < plan.pixels)[:, None] & (out < plan.out_channels)[None]
    index = jnp.where(valid, pixel[:, None] * plan.out_channels + out[None], 0)
    return plt.load(d_out_ref.at[index], mask=valid, other=0.0)


def _data_kernel(plan, x_ref, offset_ref, mask_ref, weight_ref, d_out_ref, _, d_x_ref, d_offset_ref, d_mask_ref):
    pixel = pl.program_id(0) * plan.blocks.pixels + jnp.arange(plan.blocks.pixels)
    group = pl.program_id(1) * plan.group_block + jnp.arange(plan.group_block)

    def step(tap, carry):
        def add(i, total):
            out = i * plan.out_block + jnp.arange(plan.out_block)
            w = _weights(plan, group, tap, out, weight_ref)
            return total + _dot(_load_d_out(plan, pixel, out, d_out_ref), w.T, x_ref.dtype)

        shape = (plan.blocks.pixels, plan.group_block * plan.channel_block)
        d_column = jax.lax.fori_loop(0, pl.cdiv(plan.out_channels, plan.out_block), add, jnp.zeros(shape, jnp.float32))
        d_column = d_column.reshape(plan.blocks.pixels, plan.group_block, plan.channel_block)
        block = _positions(plan, pixel, group, tap, offset_ref, mask_ref)
        fetched = list(_corners(plan, block, group, x_ref))
        a, b, c, d = (corner for corner, _, _ in fetched)
        d_mask = (_interpolate(block, (a, b, c, d)) * d_column).sum(-1)
        factor = jnp.where(block.inside, block.mask, 0.0)[..., 0]
        d_y = (((1 - block.fx) * (c - a) + block.fx * (d - b)) * d_column).sum(-1) * factor
        d_x = (((1 - block.fy) * (b - a) + block.fy * (d - c)) * d_column).sum(-1) * factor
        index = (pixel[:, None] * plan.padded[1] + group[None]) * TAPS + tap
        plt.store(d_mask_ref.at[index], d_mask)
        plt.store(d_offset_ref.at[2 * index], d_y)
        plt.store(d_offset_ref.at[2 * index + 1], d_x)
        fy, fx = block.fy, block.fx
        shares = ((1 - fy) * (1 - fx), (1 - fy) * fx, fy * (1 - fx), fy * fx)
        for (_, place, there), share in zip(fetched, shares, strict=True):
            _accumulate(plan, d_x_ref, place, d_column * share * block.mask, there)
        return carry

    jax.lax.fori_loop(0, TAPS, step, 0)


def _accumulate(plan, ref, index, value, there):
    if plan.interpret:  # where atomics lose duplicates and have no mask
        ref[...] = ref[...].at[index].add(jnp.where(there, value, 0.0))
    else:
        plt.atomic_add(ref, index, value, mask=there)


def _weight_kernel(plan, x_ref, offset_ref, mask_ref, d_out_ref, partial_ref):
    tap, first = _divmod(pl.program_id(0), plan.group_blocks)
    group = first * plan.group_block + jnp.arange(plan.group_block)
    out = pl.program_id(1) * plan.out_block + jnp.arange(plan.out_block)
    part = pl.program_id(2)
    rounds = pl.cdiv(pl.cdiv(plan.pixels, plan.blocks.pixels), plan.slices)

    def step(i, total):
        pixel = (part * rounds + i) * plan.blocks.pixels + jnp.arange(plan.blocks.pixels)
        block = _positions(plan, pixel, group, tap, offset_ref, mask_ref)
        corners = [corner for corner, _, _ in _corners(plan, block, group, x_ref)]
        column = (_interpolate(block, corners) * block.mask).reshape(plan.blocks.pixels, -1)
        return total + _dot(column.T, _load_d_out(plan, pixel, out, d_out_ref), x_ref.dtype)

    zero = jnp.zeros((plan.group_block * plan.channel_block, plan.out_block), jnp.float32)
    total = jax.lax.fori_loop(0, rounds, step, zero).reshape(plan.group_block, plan.channel_block, plan.out_block)
    channel = jnp.arange(plan.channel_block)[None, :, None]
    g, o = group[:, None, None], out[None, None, :]
    row = ((part * TAPS + tap) * plan.padded[1] + g) * plan.channel_block + channel
    plt.store(partial_ref.at[row * plan.padded[2] + o], total)
