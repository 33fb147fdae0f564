"""The transformer: packed tokens in, parameters of action distributions out.

Attention is a function handed in by the caller, so that one model serves training (exact attention over a sequence
sharded on the ring) and acting (against a key/value cache). A token knows its step within its trajectory, but no
position in the sequence: nothing in the model depends on how many trajectories stand before it, so a context may grow
beyond the training length.
"""

from __future__ import annotations

from collections.abc import Callable

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
        width = config.width
        self.heads = config.heads
        self.attention_norm = nnx.LayerNorm(width, rngs=rngs)
        self.project = nnx.Linear(width, 3 * width, use_bias=False, rngs=rngs)
        self.merge = nnx.Linear(width, width, use_bias=False, rngs=rngs)
        self.feedforward_norm = nnx.LayerNorm(width, rngs=rngs)
        self.expand = nnx.Linear(width, config.feedforward * width, rngs=rngs)
        self.contract = nnx.Linear(config.feedforward * width, width, rngs=rngs)

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
        self.embed = nnx.Linear(features, config.width, rngs=rngs)
        self.timestep = nnx.Embed(steps, config.width, embedding_init=nnx.initializers.normal(0.02), rngs=rngs)
        self.blocks = nnx.List([Block(config, rngs) for _ in range(config.layers)])
        self.norm = nnx.LayerNorm(config.width, rngs=rngs)
        self.head = nnx.Linear(config.width, head_size(config, actions), rngs=rngs)

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
            x = block(x, lambda query, key, value, layer=layer: attention(layer, query, key, value))
        return self.head(self.norm(x))
