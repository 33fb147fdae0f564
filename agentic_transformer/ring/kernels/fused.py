"""Builds a kernel from a fused attention function that knows full and causal masks alone.

Fused attention of accelerators returns the output of *its* keys, already divided by their softmax
sum, and the log-sum-exp of its scores. Two such results over different keys, (O_a, L_a) and
(O_b, L_b), merge to the result over all of them:

    L = log(exp L_a + exp L_b),   O = exp(L_a - L) O_a + exp(L_b - L) O_b

The backward pass needs no merge: given the global output and log-sum-exp, the gradients of a call
are this block's part of the whole. Merges and sums are float32, whatever the inputs are: in
bfloat16 errors would grow with the ring.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import lax

from agentic_transformer.ring.kernels.base import Kernel
from agentic_transformer.ring.masks import Mask, MaskKind
from agentic_transformer.ring.nonfinite import zero_nonfinite


class FusedAttention(Protocol):
    """Describes fused attention.

    Attributes:
        token_axis: the axis of tokens in all arrays: 2 for (batch, heads or key_heads, tokens,
            head_dim), 1 for (batch, tokens, heads or key_heads, head_dim).
    """

    token_axis: int

    def forward(
        self, query: jax.Array, key: jax.Array, value: jax.Array, *, causal: bool
    ) -> tuple[jax.Array, jax.Array]:
        """Returns out as query, and lse float32, natural, in its shape without the last axis.

        Keys may hold NaN: a causal mask must choose -inf in place of a hidden score, not add it.
        """

    def backward(
        self,
        query: jax.Array,
        key: jax.Array,
        value: jax.Array,
        out: jax.Array,
        lse: jax.Array,
        cotangent: jax.Array,
        *,
        causal: bool,
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns the gradients of query, key and value, given out and lse over all blocks."""


class PartialOutput(NamedTuple):
    """Holds attention over the keys so far, float32."""

    out: jax.Array  # O, as query
    lse: jax.Array  # L, as query without its last axis


@dataclass(frozen=True)
class FusedKernel(Kernel):
    """Calls fused attention once for every pair of blocks, and merges what it returns.

    Attributes:
        fused: the fused attention.
    """

    fused: FusedAttention
    supports_dynamic = False
    supports_segments = False

    @property
    def token_axis(self) -> int:
        """Returns the token axis of the fused attention."""
        return self.fused.token_axis

    def init(self, query: jax.Array, key: jax.Array) -> None:
        """Returns None: the first call is on whole blocks, and its result is the first carry."""

    def forward(self, carry, query, key, value, mask: Mask) -> PartialOutput:
        """Attends to the keys, and merges the result into the carry."""
        causal = mask.kind is MaskKind.CAUSAL
        if causal:
            # The mask replaces a hidden score by -inf, so NaN in a hidden key stays hidden. But
            # within a tile a fused kernel multiplies hidden weights, which are 0, with values: NaN
            # would reach every query of the tile. The key of a value that is not finite holds NaN
            # (`mark_keys`), which reaches the queries that see it, and no other.
            value = zero_nonfinite(value)
        out, lse = self.fused.forward(query, key, value, causal=causal)
        part = PartialOutput(out.astype(jnp.float32), lse)
        return part if carry is None else merge(carry, part)

    def finish(self, carry: PartialOutput, query: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns (out, lse)."""
        # A fused kernel may return another log-sum-exp than NaN for a row of NaN.
        return carry.out, jnp.where(jnp.isnan(carry.out[..., 0]), jnp.nan, carry.lse)

    def prepare_backward(self, key, out, lse, cotangent) -> tuple[jax.Array, ...]:
        """Returns (out, lse, cotangent): fused attention computes delta itself."""
        return out, lse, cotangent

    def backward(self, residual, dquery, query, key, value, mask: Mask) -> tuple:
        """Adds to dquery; returns the block's dkey and dvalue."""
        if mask.kind is MaskKind.CAUSAL:
            more, dkey, dvalue = _causal_backward(self.fused, query, key, value, *residual)
        else:
            more, dkey, dvalue = self.fused.backward(query, key, value, *residual, causal=False)
        return dquery + more.astype(jnp.float32), dkey, dvalue


def merge(a: PartialOutput, b: PartialOutput) -> PartialOutput:
    """Merges attention over two sets of keys."""
    lse = jnp.logaddexp(a.lse, b.lse)
    weight_a, weight_b = (jnp.exp(part.lse - lse)[..., None] for part in (a, b))
    return PartialOutput(weight_a * a.out + weight_b * b.out, lse)


def _causal_backward(fused: FusedAttention, query, key, value, out, lse, cotangent):
    """Differentiates causal attention.

    The gradient of a query whose lse is NaN is NaN, and so are those of the keys and values that
    the query sees.
    """
    bad_query = jnp.isnan(lse)
    arrays = (zero_nonfinite(x) for x in (query, key, value, out))
    lse = jnp.where(bad_query, jnp.inf, lse)  # weights exp(S - lse) of 0
    dquery, *gradients = fused.backward(*arrays, lse, zero_nonfinite(cotangent), causal=True)
    # Key j is seen by the queries from j on, of all heads that share it.
    axis, head_axis = fused.token_axis, 3 - fused.token_axis
    index = lax.broadcasted_iota(jnp.int32, bad_query.shape, axis)
    seen = index <= jnp.where(bad_query, index, -1).max(axis, keepdims=True)
    heads_per_key_head = query.shape[head_axis] // key.shape[head_axis]
    grouped = (*seen.shape[:head_axis], -1, heads_per_key_head, *seen.shape[head_axis + 1 :])
    bad_key = seen.reshape(grouped).any(axis=head_axis + 1)
    dkey, dvalue = (jnp.where(bad_key[..., None], jnp.nan, dx) for dx in gradients)
    return jnp.where(bad_query[..., None], jnp.nan, dquery), dkey, dvalue
