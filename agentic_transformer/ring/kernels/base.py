"""Defines an attention kernel: what the ring asks of it, and what it may rely on.

For one block of keys and values at a time, a kernel computes

    S = Q K^T / sqrt(head_dim),  P = exp(S - lse),  O = P V

where `lse` is the log-sum-exp of a row of S over *all* blocks. In the forward pass neither lse nor
O is known before the last block, so a kernel continues an online softmax in a carry of its own
form. In the backward pass both are known: each block's part of the gradient is exact by itself.

Shapes and dtypes at this interface, for a kernel whose `token_axis` is 2 (with 1, tokens stand
before heads in all arrays):
    query       (batch, heads, queries, head_dim), unscaled
    key, value  (batch, key_heads, keys, head_dim), key_heads a divisor of heads; query head h
                attends to key head h // (heads // key_heads)
    out         (batch, heads, queries, head_dim): float32 where the kernel returns it, query's
                dtype where the kernel receives it
    lse         (batch, heads, queries) float32, natural logarithm
    gradients   shaped as their arrays: that of the query is float32, those of one block's keys and
                values are float32 or of the arrays' own dtype (the ring sums in float32)

Everything else (units, transposes, padding, chunks) is private to a kernel. A kernel may pad tokens
in `pack`, and only the kernel knows what its carry holds.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from agentic_transformer.ring.masks import Mask


class Kernel(ABC):
    """Describes attention of a block of queries to one block of keys after another.

    Kernels are hashable and compare by value (frozen dataclasses): programs are cached by them.

    Arrays may hold NaN and infinity; a key holds NaN where its value is not finite. Neither may
    reach the output of a query that does not see the key, nor the gradient of an unseen key.

    Attributes:
        token_axis: the axis of tokens in all arrays, the packed ones and those of carry and
            residual among them: 2 for (batch, heads, tokens, ...), 1 for (batch, tokens, heads,
            ...), which is the order of a transformer's own arrays and costs no transpose.
        supports_dynamic: whether masks may be of kind DYNAMIC. If not, the ring calls the kernel on
            whole blocks or halves, so that masks are all FULL or CAUSAL (`ring/pairs.py`); every
            array of the carry, the residual and the running dquery then has the axis of tokens at
            `token_axis`, so that the ring can take and put halves.
        supports_segments: whether masks may hold segments; they come on top of any kind.
        supports_windows: whether causal masks may hold a static window, as they do on one device.
    """

    token_axis: int = 2
    supports_dynamic: bool = True
    supports_segments: bool = True
    supports_windows: bool = False

    def for_call(self) -> Kernel:
        """Returns the kernel for one call of attention within a program that JAX traces.

        Calls with equal kernels share what was traced. A kernel whose calls must differ returns
        another one each time; then every gradient outside of a `jax.jit` compiles anew.
        """
        return self

    def pack(self, array: jax.Array) -> jax.Array:
        """Returns an array in the form that a pass works on.

        The ring packs all arrays once before a pass, so keys and values travel packed. The axes
        stay, and only that of tokens may grow. Masks are those of the tokens without
        padding. A kernel without dynamic masks pads nothing.
        """
        return array

    def unpack(self, array: jax.Array, tokens: int) -> jax.Array:
        """Inverts `pack`: returns an array of this many tokens."""
        return array

    @abstractmethod
    def init(self, query: jax.Array, key: jax.Array) -> Any:
        """Returns the carry before the first block of keys; only the shape of `key` is used."""

    @abstractmethod
    def forward(
        self, carry: Any, query: jax.Array, key: jax.Array, value: jax.Array, mask: Mask
    ) -> Any:
        """Returns the carry after one more block of keys."""

    @abstractmethod
    def finish(self, carry: Any, query: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns (out, lse); 0 and -inf where a query saw no key."""

    def prepare_backward(
        self, key: jax.Array, out: jax.Array, lse: jax.Array, cotangent: jax.Array
    ) -> tuple[jax.Array, ...]:
        """Returns the residual: what `backward` reads, computed once and not at every ring step.

        Args:
            key: only the shape of `key` is used.
            out: the output over all blocks.
            lse: the log-sum-exp over all blocks; +inf where a query sees nothing, so that
                `exp(S - lse)` is 0; NaN where the gradient of a query must be NaN.
            cotangent: the cotangent of the output, in query's dtype.

        Returns:
            Arrays of any form; by default (cotangent, lse, delta) with
            `delta = rowsum(out * cotangent)`, (batch, heads, queries).
        """
        delta = jnp.einsum("...d,...d->...", out, cotangent, preferred_element_type=jnp.float32)
        return cotangent, lse, delta

    def init_backward(self, query: jax.Array, key: jax.Array) -> Any:
        """Returns the running dquery of no blocks; only the shapes of the arrays are used."""
        return jnp.zeros_like(query, jnp.float32)

    @abstractmethod
    def backward(
        self,
        residual: Any,
        dquery: Any,
        query: jax.Array,
        key: jax.Array,
        value: jax.Array,
        mask: Mask,
    ) -> tuple[Any, jax.Array, jax.Array]:
        """Returns (dquery, dkey, dvalue): the running dquery, and this block's dkey and dvalue.

        dkey and dvalue are returned, not accumulated, so the kernel need not wait for the incoming
        permute.
        """

    def finish_backward(self, dquery: Any, query: jax.Array) -> jax.Array:
        """Returns the gradient of the query, in its shape."""
        return dquery

    def map_heads(
        self,
        ring_pass: Callable[..., Any],
        arrays: tuple[jax.Array, ...],
        segment: jax.Array | None,
    ) -> Any:
        """Applies `ring_pass(*arrays, segment)`, a whole pass around the ring.

        A kernel may make one pass for each key head. Then the keys and values of one head travel at
        a time, which takes less memory.

        Args:
            ring_pass: returns a tree of arrays (batch, heads or key_heads, tokens, ...).
            arrays: (batch, heads or key_heads, tokens, ...), the second one with key_heads.
            segment: (batch, tokens), or None.

        Returns:
            What `ring_pass` returns.
        """
        return ring_pass(*arrays, segment)
