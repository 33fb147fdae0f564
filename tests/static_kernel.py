"""A kernel that knows masks by their static kinds alone, as fused kernels of accelerators do."""

import dataclasses

import jax
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
    }[mask.kind]
    queries = QueryIntervals(jnp.zeros_like(index), high, mask.queries.segment)
    return dataclasses.replace(mask, queries=queries, keys=KeyPositions(keys, mask.keys.segment))


@dataclasses.dataclass(frozen=True)
class ReferenceFused:
    """Fused attention of known masks in plain JAX, with the signature of an accelerator's."""

    token_axis: int = 2

    def forward(self, *arrays, causal):
        """(out, lse)."""
        return self._swap(self._forward(*self._swap(arrays), causal))

    def backward(self, *arrays, causal):
        """(dquery, dkey, dvalue)."""
        return self._swap(self._backward(*self._swap(arrays), causal))

    def _swap(self, arrays):
        """Between the axis order of this class and (batch, heads, tokens, ...)."""
        return tuple(jnp.moveaxis(array, self.token_axis, 2) for array in arrays)

    def _forward(self, query, key, value, causal):
        weights, lse = self._weights(query, key, None, causal)
        out = jnp.einsum("bhqk,bhkd->bhqd", weights, repeat(value, query).astype(jnp.float32))
        return out.astype(query.dtype), lse

    def _backward(self, query, key, value, out, lse, cotangent, causal):
        weights, _ = self._weights(query, key, lse, causal)
        q, k, v, o, g = (
            repeat(x, query).astype(jnp.float32) for x in (query, key, value, out, cotangent)
        )
        delta = (o * g).sum(-1, keepdims=True)
        dscores = weights * (jnp.einsum("bhqd,bhkd->bhqk", g, v) - delta) * q.shape[-1] ** -0.5
        gradients = (
            jnp.einsum("bhqk,bhkd->bhqd", dscores, k),
            jnp.einsum("bhqk,bhqd->bhkd", dscores, q),
            jnp.einsum("bhqk,bhqd->bhkd", weights, g),
        )
        shapes = query.shape, key.shape, value.shape
        return tuple(
            x.reshape(*shape[:2], -1, *shape[2:]).sum(2).astype(query.dtype)
            for x, shape in zip(gradients, shapes, strict=True)
        )

    def _weights(self, query, key, lse, causal):
        key = repeat(key, query)
        scores = jnp.einsum("bhqd,bhkd->bhqk", query, key, preferred_element_type=jnp.float32)
        scores *= query.shape[-1] ** -0.5
        if causal:
            scores = jnp.where(jnp.tril(jnp.ones(scores.shape[2:], bool)), scores, -jnp.inf)
        lse = jax.nn.logsumexp(scores, axis=-1) if lse is None else lse
        return jnp.exp(scores - lse[..., None]), lse


def repeat(key, query):
    return jnp.repeat(key, query.shape[1] // key.shape[1], axis=1)
