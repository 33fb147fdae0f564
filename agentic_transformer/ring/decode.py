"""Attention of new tokens to a cache of keys and values that is sharded over the ring.

With few queries it is they that should travel: keys and values stay where they are, every device
attends to its own part of the cache, and the partial outputs are merged by one maximum and one sum
over the ring (arXiv 2310.01889, appendix C, circulates the cache instead).
"""

from __future__ import annotations

from functools import lru_cache, partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AbstractMesh, Mesh, PartitionSpec

from agentic_transformer.ring.checks import (
    check_floats,
    check_heads,
    check_integers,
    check_shards,
    check_window,
    ring_size_of,
)
from agentic_transformer.ring.hidden import cleared, finite, signed
from agentic_transformer.ring.kernel import LOWEST
from agentic_transformer.ring.layout import check_layout, shard_positions
from agentic_transformer.ring.placement import check_devices, on_mesh
from agentic_transformer.ring.visibility import NOWHERE


def decode_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    position: jax.Array,
    *,
    mesh: Mesh | AbstractMesh,
    axis: str = "ring",
    batch_axis: str | tuple[str, ...] | None = None,
    layout: str = "zigzag",
    window: int | None = None,
) -> jax.Array:
    """Attention of a few new tokens to a sharded cache that already holds their own keys and
    values.

    What a token does not see, such as slots that nothing was written to, does not reach it,
    whatever it holds: NaN there change no bit of its output.

    Args:
        query: (batch, tokens, heads, head_dim), one or a few tokens, not sharded over the ring.
        key: (batch, capacity, key_heads, head_dim), the cache, in the layout order of a sequence of
            `capacity`; its dtype may be another than query's.
        value: as key.
        position: (batch, tokens) integers, natural position of each new token: it sees the cache up
            to and including it. Those of a numpy array are less than capacity; others may be more,
            and then see the whole cache.
        mesh: the devices, as in `ring_attention`.
        axis: the mesh axis over which the cache is sharded.
        batch_axis: the mesh axis over which the batch is sharded.
        layout: the order of the cache, "zigzag" or "contiguous".
        window: a token sees the last `window` positions only, its own included.

    Returns:
        (batch, tokens, heads, head_dim) of query's dtype; a token that sees nothing (position < 0)
        gives 0.

    Raises:
        ValueError: for arguments other than these.
    """
    check_layout(layout)
    check_heads(query, key, value)
    capacity = key.shape[1]
    tokens = query.shape[:2]
    check_integers("position", position, ("batch", "tokens"), tokens, most=capacity - 1)
    check_window(window, causal=True)
    check_shards(*key.shape[:2], mesh, axis, batch_axis)
    check_devices(mesh, query=query, key=key, value=value, position=position)
    return _decode(mesh, axis, batch_axis, layout, window)(query, key, value, position)


def write_cache(
    cache: jax.Array,
    new: jax.Array,
    position: jax.Array,
    *,
    mesh: Mesh | AbstractMesh,
    axis: str = "ring",
    batch_axis: str | tuple[str, ...] | None = None,
    layout: str = "zigzag",
) -> jax.Array:
    """Writes the keys or values of new tokens into a sharded cache; each device writes what falls
    into its own part.

    Args:
        cache: (batch, capacity, key_heads, head_dim) in layout order.
        new: (batch, tokens, key_heads, head_dim), converted to the cache's dtype.
        position: (batch, tokens) integers, natural position of each new token; those outside
            0..capacity-1 are not written.
        mesh: the devices, as in `ring_attention`.
        axis: the mesh axis over which the cache is sharded.
        batch_axis: the mesh axis over which the batch is sharded.
        layout: the order of the cache.

    Returns:
        The cache with the tokens in place.

    Raises:
        ValueError: for arguments other than these.
    """
    check_layout(layout)
    check_floats(("batch", "sequence", "heads", "head_dim"), cache=cache, new=new)
    if (new.shape[0], *new.shape[2:]) != (cache.shape[0], *cache.shape[2:]):
        raise ValueError(
            f"new {new.shape} must have the batch, heads and head_dim of cache {cache.shape}"
        )
    check_integers("position", position, ("batch", "tokens"), new.shape[:2])
    check_shards(*cache.shape[:2], mesh, axis, batch_axis)
    check_devices(mesh, cache=cache, new=new, position=position)
    return _write(mesh, axis, batch_axis, layout)(cache, new, position)


@lru_cache(maxsize=256)
def _decode(mesh, axis, batch_axis, layout, window):
    ring_size = ring_size_of(mesh, axis)

    def local(query, key, value, position):
        batch, tokens, heads, head_dim = query.shape
        at = shard_positions(lax.axis_index(axis), key.shape[1], ring_size, layout)
        position = signed(position)
        mask = at <= position[..., None]  # (batch, tokens, keys)
        if window is not None:
            mask &= at > position[..., None] - min(window, NOWHERE)
        mask = mask[:, None, None]  # (batch, 1, 1, tokens, keys), as scores
        grouped = query.reshape(batch, tokens, key.shape[2], -1, head_dim)
        scores = (
            jnp.einsum("btghd,bkgd->bghtk", grouped, key, preferred_element_type=jnp.float32)
            * head_dim**-0.5
        )
        scores = jnp.where(mask, scores, -jnp.inf)
        largest = lax.pmax(jnp.maximum(scores.max(axis=-1), LOWEST), axis)
        weights = jnp.exp(scores - largest[..., None])
        sums = _sums(weights, mask, value)
        sums, total = lax.psum((sums, weights.sum(axis=-1)), axis)
        output = sums / jnp.where(total > 0, total, 1)[..., None]
        return output.transpose(0, 3, 1, 2, 4).reshape(query.shape).astype(query.dtype)

    here, sharded = PartitionSpec(batch_axis), PartitionSpec(batch_axis, axis)
    return jax.jit(on_mesh(local, mesh, (here, sharded, sharded, here), here))


def _sums(weights, mask, value):
    """Sums of values (batch, keys, groups, head_dim) by weights (batch, groups, heads, tokens,
    keys).

    A hidden value that is not finite makes NaN of the product, which is then made again without it:
    to look for such values first would be to read the cache twice for every token.
    """
    product = partial(jnp.einsum, "bghtk,bkgd->bghtd", preferred_element_type=jnp.float32)
    sums = product(weights.astype(value.dtype), value)

    def again():
        met = mask & ~finite(value).transpose(0, 2, 1)[:, :, None, None]
        return product(jnp.where(met, jnp.nan, weights).astype(value.dtype), cleared(value))

    return lax.cond(jnp.isfinite(sums).all(), lambda: sums, again)


@lru_cache(maxsize=256)
def _write(mesh, axis, batch_axis, layout):
    ring_size = ring_size_of(mesh, axis)

    def local(cache, new, position):
        index, tokens = lax.axis_index(axis), cache.shape[1]
        half = tokens // 2
        position = signed(position)
        block, within = position // half, position % half
        first, second = (
            (index, 2 * ring_size - 1 - index) if layout == "zigzag" else (2 * index, 2 * index + 1)
        )
        place = jnp.where(block == first, within, jnp.where(block == second, half + within, tokens))
        row = jnp.arange(cache.shape[0])[:, None]
        return cache.at[row, place].set(new.astype(cache.dtype), mode="drop")

    here, sharded = PartitionSpec(batch_axis), PartitionSpec(batch_axis, axis)
    return jax.jit(on_mesh(local, mesh, (sharded, here, here), sharded))
