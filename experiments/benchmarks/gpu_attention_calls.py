"""Holds the ways to compute attention that suite `gpu` compares."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from agentic_transformer.ring.kernels.cudnn import CUDNN_KERNEL, why_not
from agentic_transformer.ring.kernels.fused import FusedAttention, FusedKernel
from experiments.benchmarks.gpu_timing import is_small


def array_structs(shape: tuple[int, ...], dtype: jnp.dtype) -> list[jax.ShapeDtypeStruct]:
    """Returns shapes and types of query, key, value and a cotangent."""
    return [jax.ShapeDtypeStruct(shape, dtype)] * 4


def random_arrays(shape: tuple[int, ...], dtype: jnp.dtype) -> list[jax.Array]:
    """Returns query, key, value and a cotangent."""
    keys = jax.random.split(jax.random.key(0), 4)
    return [jax.random.normal(key, shape, jnp.float32).astype(dtype) for key in keys]


def one_fused_call(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """Computes causal attention by cuDNN in one call; on a CPU by XLA.

    Args:
        query: (batch, sequence, heads, head_dim).
        key: as query.
        value: as query.
    """
    implementation = "xla" if is_small() else "cudnn"
    return jax.nn.dot_product_attention(
        query, key, value, is_causal=True, implementation=implementation
    )


def repeated(function: Callable, repeats: int) -> Callable:
    """Returns a function that calls another several times with the same arrays, one by one.

    Each call waits for the one before it, whose results it does not use.
    """

    def repeat(*arrays: jax.Array) -> Any:
        def again(result: Any, _: None) -> tuple[Any, None]:
            # Tied to the result before: or XLA would compute it once.
            return function(*jax.lax.optimization_barrier((arrays, result))[0]), None

        return jax.lax.scan(again, function(*arrays), length=repeats - 1)[0]

    return repeat


class PlainAttention:
    """Computes `FusedAttention` in plain JAX, where no fused attention is: on a CPU, small.

    Arrays have cuDNN's order of axes, (batch, tokens, heads, head_dim).
    """

    token_axis = CUDNN_KERNEL.token_axis

    def forward(
        self, query: jax.Array, key: jax.Array, value: jax.Array, *, causal: bool
    ) -> tuple[jax.Array, jax.Array]:
        """Returns out and lse, see `FusedAttention.forward`."""
        scores = _scores(query, key, causal)
        lse = jax.nn.logsumexp(scores, axis=-1)  # (batch, heads, queries)
        out = jnp.einsum("bhqk,bkhd->bqhd", jnp.exp(scores - lse[..., None]), value)
        return out.astype(query.dtype), lse.swapaxes(1, 2)

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
        """Returns the gradients, see `FusedAttention.backward`."""
        weights = jnp.exp(_scores(query, key, causal) - lse.swapaxes(1, 2)[..., None])
        products = jnp.einsum("bqhd,bkhd->bhqk", cotangent, value)
        delta = jnp.einsum("bqhd,bqhd->bhq", cotangent, out)
        dscores = weights * (products - delta[..., None]) * query.shape[-1] ** -0.5
        gradients = (
            jnp.einsum("bhqk,bkhd->bqhd", dscores, key),
            jnp.einsum("bhqk,bqhd->bkhd", dscores, query),
            jnp.einsum("bhqk,bqhd->bkhd", weights, cotangent),
        )
        return tuple(gradient.astype(query.dtype) for gradient in gradients)


def _scores(query: jax.Array, key: jax.Array, causal: bool) -> jax.Array:
    scores = (
        jnp.einsum("bqhd,bkhd->bhqk", query, key, preferred_element_type=jnp.float32)
        * query.shape[-1] ** -0.5
    )
    visible = np.tri(query.shape[1], key.shape[1], dtype=bool) if causal else True
    return jnp.where(visible, scores, -jnp.inf)


def fused_kernel(dtype: jnp.dtype, head_dim: int) -> FusedKernel:
    """Returns the kernel over cuDNN; on a CPU, over `PlainAttention`.

    Raises:
        ValueError: cuDNN cannot compute this here.
    """
    if is_small():
        plain: FusedAttention = PlainAttention()
        return FusedKernel(plain)
    if problem := why_not(jax.default_backend(), dtype, head_dim):
        raise ValueError(f"no cuDNN: {problem}")
    return CUDNN_KERNEL
