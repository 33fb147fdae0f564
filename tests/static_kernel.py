"""A kernel that knows masks by their static kinds alone, as fused kernels of accelerators do."""

import dataclasses

import jax.numpy as jnp

from agentic_transformer.ring import ReferenceKernel
from agentic_transformer.ring.masks import KeyPositions, MaskKind, QueryIntervals


class StaticKernel(ReferenceKernel):
    """The reference, without the positions of queries and keys."""

    supports_dynamic = False

    def forward(self, carry, query, key, value, mask):
        return super().forward(carry, query, key, value, of_kind(mask, query, key))

    def backward(self, residual, dquery, query, key, value, mask):
        mask = of_kind(mask, query, key)
        return super().backward(residual, dquery, query, key, value, mask)


def of_kind(mask, query, key):
    """The mask with intervals that follow from its kind."""
    index, keys = jnp.arange(query.shape[2]), jnp.arange(key.shape[2])
    high = {
        MaskKind.CAUSAL: index,
        MaskKind.FULL: jnp.full_like(index, keys.size),
        MaskKind.EMPTY: jnp.full_like(index, -1),
    }[mask.kind]
    queries = QueryIntervals(jnp.zeros_like(index), high, mask.queries.segment)
    return dataclasses.replace(mask, queries=queries, keys=KeyPositions(keys, mask.keys.segment))
