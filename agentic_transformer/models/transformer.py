"""The transformer: tokens in, parameters of action distributions out.

Attention is a function handed in by the caller, so that one model serves training (exact attention
over a sequence sharded on the ring) and acting (against a key/value cache). A token knows its step
within its trajectory, but no position in the sequence: nothing in the model depends on how many
trajectories stand before it, so a context may grow beyond the training length.

Parameters are float32. With `compute` bfloat16 the blocks calculate in it; norms and softmax
accumulate in float32, and the head is float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from agentic_transformer.config import ModelConfig
from agentic_transformer.models.heads import head_size

Attention = Callable[[int | jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]
"""(layer, query, key, value), each (batch, sequence, heads, head_dim) -> (batch, sequence, heads,
head_dim)."""

Feedforward = Callable[
    [Callable[[nnx.State, jax.Array], jax.Array], nnx.State, jax.Array], jax.Array
]
"""(function of each token, its parameters, (batch, sequence, width)) -> (batch, sequence, width).
"""

Weights = Callable[[nnx.State], nnx.State]
"""A block's parameters, as they are kept -> as they are computed with."""


class Block(nnx.Module):
    """Pre-norm transformer block: attention, then a feedforward network with ReLU (the paper's
    activation).
    """

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs) -> None:
        """Initialises the parameters."""
        width, dtype = config.width, jnp.dtype(config.dtype)
        self.heads = config.heads
        self.attention_norm = nnx.LayerNorm(width, dtype=dtype, rngs=rngs)
        self.project = nnx.Linear(width, 3 * width, use_bias=False, dtype=dtype, rngs=rngs)
        self.merge = nnx.Linear(width, width, use_bias=False, dtype=dtype, rngs=rngs)
        self.feedforward_norm = nnx.LayerNorm(width, dtype=dtype, rngs=rngs)
        self.expand = nnx.Linear(width, config.feedforward * width, dtype=dtype, rngs=rngs)
        self.contract = nnx.Linear(config.feedforward * width, width, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        x: jax.Array,
        attend: Callable[[jax.Array, jax.Array, jax.Array], jax.Array],
        feedforward: Feedforward,
    ) -> jax.Array:
        """(batch, sequence, width) -> the same shape."""
        qkv = self.project(self.attention_norm(x))
        # (batch, sequence, 3 * width) -> three of (batch, sequence, heads, head_dim)
        query, key, value = jnp.moveaxis(qkv.reshape(*x.shape[:2], 3, self.heads, -1), 2, 0)
        x = x + self.merge(attend(query, key, value).reshape(x.shape))
        graph, params = nnx.split((self.feedforward_norm, self.expand, self.contract))

        def of_tokens(params: nnx.State, x: jax.Array) -> jax.Array:
            norm, expand, contract = nnx.merge(graph, params)
            return contract(nnx.relu(expand(norm(x))))

        return x + feedforward(of_tokens, params, x)


class AgenticTransformer(nnx.Module):
    """Embedding, blocks, and the parameters of an action head."""

    def __init__(
        self, config: ModelConfig, features: int, actions: int, steps: int, rngs: nnx.Rngs
    ) -> None:
        """Initialises the parameters, the same whether the layers are rolled or not.

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
            raise ValueError(
                f"model.width={config.width} must be a multiple of model.heads={config.heads}"
            )
        dtype = jnp.dtype(config.dtype)
        self.remat, self.rolled = config.remat, config.scan_layers
        self.embed = nnx.Linear(features, config.width, dtype=dtype, rngs=rngs)
        self.timestep = nnx.Embed(
            steps,
            config.width,
            dtype=dtype,
            embedding_init=nnx.initializers.normal(0.02),
            rngs=rngs,
        )
        blocks = [Block(config, rngs) for _ in range(config.layers)]
        self.blocks = _stacked(blocks) if config.scan_layers else nnx.List(blocks)
        self.norm = nnx.LayerNorm(config.width, dtype=jnp.float32, rngs=rngs)
        self.head = nnx.Linear(
            config.width, head_size(config, actions), dtype=jnp.float32, rngs=rngs
        )

    def __call__(
        self,
        features: jax.Array,
        timestep: jax.Array,
        attention: Attention,
        weights: Weights = lambda params: params,
        feedforward: Feedforward = lambda function, params, x: function(params, x),
    ) -> jax.Array:
        """Parameters of the action distribution at every token.

        Args:
            features: (batch, sequence, F) float32.
            timestep: (batch, sequence) int32.
            attention: exact causal attention of each layer.
            weights: brings a block's parameters to where they are needed; done again for the
                gradient if the block is.
            feedforward: applies a block's feedforward network to the tokens, at once or in chunks.

        Returns:
            (batch, sequence, head_size) float32, to be read by `agentic_transformer.models.heads`.
        """

        def run(
            graph: nnx.GraphDef, layer: int | jax.Array, params: nnx.State, x: jax.Array
        ) -> jax.Array:
            def block(params: nnx.State, x: jax.Array) -> jax.Array:
                return nnx.merge(graph, weights(params))(x, partial(attention, layer), feedforward)

            return _rematerialised(block, self.remat)(params, x)

        x = self.embed(features) + self.timestep(timestep)
        if self.rolled:
            graph, params = nnx.split(self.blocks)
            layers = jnp.arange(jax.tree.leaves(params)[0].shape[0])
            x, _ = jax.lax.scan(lambda x, layer: (run(graph, *layer, x), None), x, (layers, params))
        else:
            for layer, block in enumerate(self.blocks):
                graph, params = nnx.split(block)
                x = run(graph, layer, params, x)
        return self.head(self.norm(x))


def _stacked(blocks: Sequence[Block]) -> Block:
    """One block whose parameters (layers, ...) are those of all."""
    graphs, params = zip(*map(nnx.split, blocks), strict=True)
    return nnx.merge(graphs[0], jax.tree.map(lambda *layers: jnp.stack(layers), *params))


def unrolled(params: nnx.State) -> nnx.State:
    """The parameters of a model with rolled layers as those of the same model with a block for each
    layer.
    """
    layers = jax.tree.leaves(params["blocks"])[0].shape[0]
    blocks = {layer: jax.tree.map(lambda x: x[layer], params["blocks"]) for layer in range(layers)}  # noqa: B023
    return nnx.State({**params, "blocks": blocks})


def _rematerialised(function: Callable[..., jax.Array], remat: str) -> Callable[..., jax.Array]:
    """A function whose activations are kept for its gradient ("none"), computed again ("block"), or
    all but products ("dots").
    """
    if remat == "none":
        return function
    policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable if remat == "dots" else None
    return jax.checkpoint(function, policy=policy)
