"""The transformer: tokens in, parameters of action distributions out.

Attention is a function handed in by the caller, so that one model serves training (exact attention over a sequence
sharded on the ring) and acting (against a key/value cache). A token knows its step within its trajectory, but no
position in the sequence: nothing in the model depends on how many trajectories stand before it, so a context may grow
beyond the training length.

Parameters are float32. With `compute` bfloat16 the blocks calculate in it; norms and softmax accumulate in float32, and the
head is float32.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from agentic_transformer.config import ModelConfig
from agentic_transformer.heads import head_size

Attention = Callable[[int, jax.Array, jax.Array, jax.Array], jax.Array]
"""(layer, query, key, value), each (batch, sequence, heads, head_dim) -> (batch, sequence, heads, head_dim)."""


class Block(nnx.Module):
    """Pre-norm transformer block: attention, then a feedforward network with ReLU (the paper's activation)."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs) -> None:
        """Initialises the parameters."""
        width, dtype = config.width, jnp.dtype(config.compute)
        self.heads = config.heads
        self.attention_norm = nnx.LayerNorm(width, dtype=dtype, rngs=rngs)
        self.project = nnx.Linear(width, 3 * width, use_bias=False, dtype=dtype, rngs=rngs)
        self.merge = nnx.Linear(width, width, use_bias=False, dtype=dtype, rngs=rngs)
        self.feedforward_norm = nnx.LayerNorm(width, dtype=dtype, rngs=rngs)
        self.expand = nnx.Linear(width, config.feedforward * width, dtype=dtype, rngs=rngs)
        self.contract = nnx.Linear(config.feedforward * width, width, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array, attend: Callable[[jax.Array, jax.Array, jax.Array], jax.Array]) -> jax.Array:
        """(batch, sequence, width) -> the same shape."""
        qkv = self.project(self.attention_norm(x))
        # (batch, sequence, 3 * width) -> three of (batch, sequence, heads, head_dim)
        query, key, value = jnp.moveaxis(qkv.reshape(*x.shape[:2], 3, self.heads, -1), 2, 0)
        x = x + self.merge(attend(query, key, value).reshape(x.shape))
        return x + self.contract(nnx.relu(self.expand(self.feedforward_norm(x))))


class AgenticTransformer(nnx.Module):
    """Embedding, blocks, and the parameters of an action head."""

    def __init__(self, config: ModelConfig, features: int, actions: int, steps: int, rngs: nnx.Rngs) -> None:
        """Initialises the parameters.

        Args:
            config: sizes and kind of head.
            features: size F of a token.
            actions: size A of an action.
            steps: steps of a trajectory, the number of within-trajectory timesteps.
            rngs: source of the initial parameters.

        Raises:
            ValueError: the width does not divide by the heads.
        """
        if config.width % config.heads:
            raise ValueError(f"model.width={config.width} must be a multiple of model.heads={config.heads}")
        dtype = jnp.dtype(config.compute)
        self.remat = config.remat
        self.embed = nnx.Linear(features, config.width, dtype=dtype, rngs=rngs)
        self.timestep = nnx.Embed(steps, config.width, dtype=dtype, embedding_init=nnx.initializers.normal(0.02), rngs=rngs)
        self.blocks = nnx.List([Block(config, rngs) for _ in range(config.layers)])
        self.norm = nnx.LayerNorm(config.width, dtype=jnp.float32, rngs=rngs)
        self.head = nnx.Linear(config.width, head_size(config, actions), dtype=jnp.float32, rngs=rngs)

    def __call__(self, features: jax.Array, timestep: jax.Array, attention: Attention) -> jax.Array:
        """Parameters of the action distribution at every token.

        Args:
            features: (batch, sequence, F) float32.
            timestep: (batch, sequence) int32.
            attention: exact causal attention of each layer.

        Returns:
            (batch, sequence, head_size) float32, to be read by `agentic_transformer.heads`.
        """
        x = self.embed(features) + self.timestep(timestep)
        for layer, block in enumerate(self.blocks):
            x = _rematerialised(block, self.remat)(x, partial(attention, layer))
        return self.head(self.norm(x))


def _rematerialised(block: Block, remat: str) -> Callable[..., jax.Array]:
    """A block whose activations are kept for its gradient ("none"), computed again ("block"), or all but products ("dots")."""
    if remat == "none":
        return block
    graph, params = nnx.split(block)
    policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable if remat == "dots" else None

    def apply(x: jax.Array, attend: Callable[..., jax.Array]) -> jax.Array:
        run = jax.checkpoint(lambda params, x: nnx.merge(graph, params)(x, attend), policy=policy)
        return run(params, x)

    return apply
