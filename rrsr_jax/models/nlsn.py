"""NLSN (Mei et al., CVPR 2021): single-image super-resolution with attention among pixels whose features hash alike."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from rrsr_jax.models.contract import check_images
from rrsr_jax.models.edsr import DIV2K_MEAN, Upsampler
from rrsr_jax.models.layers import ResidualBlock, conv3x3, default_inits

MOST_BUCKETS = 128
SMALLEST_NORM = 5e-5  # of keys


def buckets(pixels: int, chunk: int) -> int:
    """How many hash codes there are for an image of so many pixels: an even number, about one for each chunk."""
    full = max(pixels // chunk, 1)
    return min(full + full % 2, MOST_BUCKETS)


def hash_codes(queries: jax.Array, rotations: jax.Array) -> jax.Array:
    """Spherical locality-sensitive hashing, without gradient: (N, L, C) and (C, R, B / 2) to codes (N, R, L) in [0, B)."""
    turned = jnp.einsum("nlc,crb->nrlb", queries, rotations, precision=jax.lax.Precision.HIGHEST)
    return jnp.concatenate([turned, -turned], -1).argmax(-1)


def sparse_attention(queries: jax.Array, values: jax.Array, codes: jax.Array, chunk: int) -> jax.Array:
    """Attention of each position to those with similar codes, averaged over rounds by how much each of them found (section 3.2).

    In each round, positions are sorted by code and cut into chunks; a chunk attends to itself and both neighbours. The last
    chunk is filled up with copies of the last positions, which count again as keys. The ends of the list are neighbours.

    Args:
      queries: (N, L, C).
      values: (N, L, V).
      codes: (N, R, L).
      chunk: positions in a chunk, at most L.

    Returns:
      (N, L, V).
    """
    length = queries.shape[1]
    squares = (queries**2).sum(-1, keepdims=True)
    keys = queries * jax.lax.rsqrt(jnp.maximum(squares, SMALLEST_NORM**2))

    def one_round(codes):
        order = codes.argsort(1, stable=True)
        filled = jnp.concatenate([order, order[:, length - -length % chunk :]], 1)
        q, k, v = (_take(x, filled).reshape(len(x), -1, chunk, x.shape[-1]) for x in (queries, keys, values))
        k, v = (jnp.concatenate([x, jnp.roll(x, 1, 1), jnp.roll(x, -1, 1)], 2) for x in (k, v))
        scores = jnp.einsum("nkqc,nkpc->nkqp", q, k)
        total = jax.nn.logsumexp(scores, -1, keepdims=True)
        found = jnp.einsum("nkqp,nkpv->nkqv", jnp.exp(scores - total), v)
        back = order.argsort(1)
        return tuple(_take(x.reshape(len(x), -1, x.shape[-1])[:, :length], back) for x in (found, total))

    found, totals = jax.lax.map(one_round, codes.swapaxes(0, 1))  # (R, N, L, V) and (R, N, L, 1)
    return (nn.softmax(totals, 0) * found).sum(0)


def _take(x: jax.Array, index: jax.Array) -> jax.Array:
    return jnp.take_along_axis(x, index[..., None], 1)


class NonLocalSparseAttention(nn.Module):
    """x + scale `sparse_attention` of x; (N, H, W, C) to the same.

    Attributes:
      chunk: positions in a chunk. An image with fewer is one chunk; the authors' program refuses it.
      rounds: of hashing.
      scale: of what is added.
    """

    chunk: int = 144
    rounds: int = 4
    scale: float = 0.1

    @nn.compact
    def __call__(self, x: jax.Array, rotations: jax.Array) -> jax.Array:
        """`rotations`: (C / 4, rounds, `buckets` / 2), from N(0, 1)."""
        n, h, w, channels = x.shape
        q = conv3x3(channels // 4, **default_inits(9 * channels), name="match")(x).reshape(n, h * w, -1)
        v = nn.Conv(channels, (1, 1), **default_inits(channels), name="assembly")(x).reshape(n, h * w, -1)
        codes = hash_codes(jax.lax.stop_gradient(q), rotations)
        self.sow("intermediates", "hash_codes", codes)
        y = sparse_attention(q, v, codes, min(self.chunk, h * w))
        return x + self.scale * y.reshape(x.shape)


class NLSN(nn.Module):
    """Super-resolves an image by 4 and ignores the reference. 44,156,483 parameters with the defaults.

    The hashing is random. Its rotations are the argument `rotations`, or drawn at each call from the generator `rotations`
    (`apply(..., rngs={"rotations": key})`), or, without either, drawn from `seed`: then the same image gives the same result.

    Attributes:
      features: channels of the trunk.
      groups: of residual blocks, with an attention after each and one before the first.
      blocks: residual blocks in each group.
      chunk, rounds: see `NonLocalSparseAttention`.
      residual_scale: of what blocks and attentions add.
      seed: see above.
    """

    features: int = 256
    groups: int = 4
    blocks: int = 8
    chunk: int = 144
    rounds: int = 4
    residual_scale: float = 0.1
    seed: int = 0
    pads_itself = True  # padding would take part in the attention
    generators = ("rotations",)

    @nn.compact
    def __call__(self, lr: jax.Array, ref: jax.Array, rotations: Sequence[jax.Array] | None = None) -> jax.Array:
        """(N, h, w, 3) in [0, 1], and any `ref`, to (N, 4h, 4w, 3), not clipped.

        `rotations`: one array (features / 4, rounds, `buckets` / 2) for each attention.
        """
        check_images(lr=lr, ref=ref)
        mean = jnp.array(DIV2K_MEAN).reshape(1, 1, 1, 3)
        inits = default_inits(9 * self.features)
        rotations = self._rotations(lr.shape[1] * lr.shape[2]) if rotations is None else rotations

        def attend(x, i):
            attention = NonLocalSparseAttention(self.chunk, self.rounds, self.residual_scale, name=f"attention_{i}")
            return attention(x, rotations[i])

        head = conv3x3(self.features, **default_inits(9 * 3), name="head")(lr - mean)
        x = attend(head, 0)
        for g in range(self.groups):
            for b in range(self.blocks):
                name = f"group_{g}_block_{b}"
                x = ResidualBlock(self.features, scale=self.residual_scale, **inits, name=name)(x)
            x = attend(x, g + 1)
        x = head + conv3x3(self.features, **inits, name="body")(x)
        return Upsampler(**inits, name="upsampler")(x) + mean

    def _rotations(self, pixels: int) -> list[jax.Array]:
        key = self.make_rng("rotations") if self.has_rng("rotations") else jax.random.key(self.seed)
        shape = (self.features // 4, self.rounds, buckets(pixels, self.chunk) // 2)
        return [jax.random.normal(k, shape) for k in jax.random.split(key, self.groups + 1)]
