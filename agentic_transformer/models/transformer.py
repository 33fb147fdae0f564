"""Defines the transformer, which maps tokens to action distributions and, if asked for, a value.

The caller passes attention as a function, so that one model serves training (exact attention over a
sequence sharded on the ring) and acting (attention to a key/value cache). A token knows its step
within its trajectory, but not its position in the sequence. Nothing in the model depends on how
many trajectories come before a token, so a context may grow beyond the training length.

Parameters are float32. With `model.dtype=bfloat16` the blocks compute in bfloat16. Even then norms
and softmax accumulate in float32, and the heads compute in float32. The gradients of parameters are
sums over tokens; they are added in float32, too. There is one exception: for a block's matrices
that are sharded (see `agentic_transformer.training.fsdp`), each device rounds its sum to bfloat16,
and the sums of devices are added in bfloat16.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from agentic_transformer.config import ModelConfig
from agentic_transformer.models.heads import head_size
from agentic_transformer.ring import RESIDUAL_NAMES

Attention = Callable[[int | jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]
"""Takes the layer's index, and query, key and value, each (batch, sequence, heads, head_dim).
Returns the attention's output of the same shape."""

Feedforward = Callable[
    [Callable[[nnx.State, jax.Array], jax.Array], nnx.State, jax.Array], jax.Array
]
"""Takes a function of tokens, the function's parameters, and tokens (batch, sequence, width).
Returns the function's values (batch, sequence, width)."""

GatherParams = Callable[[nnx.State], nnx.State]
"""Takes a block's parameters as they are stored. Returns them as the block computes with them."""


class _Linear(nnx.Linear):
    """Computes a linear layer as its parent does, but with gradients that are summed in float32.

    They are sums over all tokens, on all devices. In bfloat16 a sum of equal terms stops growing at
    256 of them. So the bias is added in float32, and then the result is rounded once.
    """

    def __call__(self, inputs: jax.Array) -> jax.Array:
        inputs, kernel = inputs.astype(self.dtype), self.kernel[...]
        product = (_multiply if kernel.dtype == self.dtype else _multiply_rounded)(inputs, kernel)
        if self.bias is None:
            return product
        return (product.astype(jnp.float32) + self.bias[...]).astype(self.dtype)


def _multiply(inputs: jax.Array, kernel: jax.Array) -> jax.Array:
    """Maps (..., I) by a kernel (I, O) to (..., O)."""
    return jax.lax.dot_general(inputs, kernel, (((inputs.ndim - 1,), (0,)), ((), ())))


@jax.custom_vjp
def _multiply_rounded(inputs: jax.Array, kernel: jax.Array) -> jax.Array:
    """Rounds a kernel to the type of the inputs, and multiplies; its gradient is not rounded.

    JAX would round the gradient too: on each device, before it is added over devices in 16 bits.
    """
    return _multiply(inputs, kernel.astype(inputs.dtype))


def _multiply_rounded_forward(
    inputs: jax.Array, kernel: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    # Not by a call of `_multiply_rounded`: `jax.checkpoint` must see the product.
    return _multiply(inputs, kernel.astype(inputs.dtype)), (inputs, kernel)


def _multiply_rounded_backward(
    saved: tuple[jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    inputs, kernel = saved
    tokens = tuple(range(inputs.ndim - 1))
    gradient = jax.lax.dot_general(
        inputs, cotangent, ((tokens, tokens), ((), ())), preferred_element_type=kernel.dtype
    )
    return _multiply(cotangent, kernel.astype(inputs.dtype).T), gradient


_multiply_rounded.defvjp(_multiply_rounded_forward, _multiply_rounded_backward)


class Block(nnx.Module):
    """Computes a pre-norm block: attention, then a feedforward network with ReLU (the paper's)."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs) -> None:
        """Initialises the parameters.

        Args:
            config: sizes and the type that the block computes in.
            rngs: source of the initial parameters.
        """
        width, dtype = config.width, jnp.dtype(config.dtype)
        self.heads = config.heads
        self.attention_norm = nnx.LayerNorm(width, dtype=dtype, rngs=rngs)
        self.qkv_proj = _Linear(width, 3 * width, use_bias=False, dtype=dtype, rngs=rngs)
        self.out_proj = _Linear(width, width, use_bias=False, dtype=dtype, rngs=rngs)
        self.feedforward_norm = nnx.LayerNorm(width, dtype=dtype, rngs=rngs)
        self.up_proj = _Linear(width, config.feedforward * width, dtype=dtype, rngs=rngs)
        self.down_proj = _Linear(config.feedforward * width, width, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        x: jax.Array,
        attend: Callable[[jax.Array, jax.Array, jax.Array], jax.Array],
        feedforward: Feedforward,
    ) -> jax.Array:
        """Computes y = x + attention(norm(x)), then y + feedforward(norm(y)).

        Args:
            x: (batch, sequence, width).
            attend: attention of (query, key, value), each (batch, sequence, heads, head_dim).
            feedforward: applies the feedforward network to the tokens.

        Returns:
            (batch, sequence, width).
        """
        qkv = self.qkv_proj(self.attention_norm(x))
        # (batch, sequence, 3 * width) -> three of (batch, sequence, heads, head_dim)
        query, key, value = jnp.moveaxis(qkv.reshape(*x.shape[:2], 3, self.heads, -1), 2, 0)
        # (batch, sequence, heads, head_dim) -> (batch, sequence, width)
        x = x + self.out_proj(attend(query, key, value).reshape(x.shape))
        graph, params = nnx.split((self.feedforward_norm, self.up_proj, self.down_proj))

        # A pure function, so that `feedforward` may apply it to chunks of the tokens.
        def mlp(params: nnx.State, x: jax.Array) -> jax.Array:
            norm, up_proj, down_proj = nnx.merge(graph, params)
            return down_proj(nnx.relu(up_proj(norm(x))))

        return x + feedforward(mlp, params, x)


class AgenticTransformer(nnx.Module):
    """Maps tokens to the parameters of action distributions: embedding, blocks, action head.

    If `with_value` is set, a second head maps the output of the blocks to the value of the token's
    state in its context, see `agentic_transformer.models.value_head`. Acting does not use it.
    """

    def __init__(
        self,
        config: ModelConfig,
        feature_size: int,
        action_size: int,
        steps: int,
        rngs: nnx.Rngs,
        with_value: bool = False,
    ) -> None:
        """Initialises the parameters, the same with and without `scan_layers`.

        Args:
            config: sizes and kind of head.
            feature_size: size F of a token.
            action_size: size A of an action.
            steps: steps of a trajectory, the number of timestep embeddings.
            rngs: source of the initial parameters.
            with_value: whether the model has a value head.

        Raises:
            ValueError: the width does not divide by the heads.
        """
        if config.width % config.heads:
            raise ValueError(
                f"model.width={config.width} must be a multiple of model.heads={config.heads}"
            )
        dtype = jnp.dtype(config.dtype)
        self.remat, self.scan_layers = config.remat, config.scan_layers
        self.embed = _Linear(feature_size, config.width, dtype=dtype, rngs=rngs)
        self.timestep = nnx.Embed(
            steps,
            config.width,
            dtype=jnp.float32,
            embedding_init=nnx.initializers.normal(0.02),
            rngs=rngs,
        )
        blocks = [Block(config, rngs) for _ in range(config.layers)]
        self.blocks = _stacked(blocks) if config.scan_layers else nnx.List(blocks)
        self.norm = nnx.LayerNorm(config.width, dtype=jnp.float32, rngs=rngs)
        self.head = nnx.Linear(
            config.width, head_size(config, action_size), dtype=jnp.float32, rngs=rngs
        )
        if with_value:  # Last, so that the other parameters begin as they do without it.
            self.value_head = nnx.Linear(config.width, 1, dtype=jnp.float32, rngs=rngs)

    def __call__(self, features: jax.Array, timestep: jax.Array, attention: Attention) -> jax.Array:
        """Returns the parameters of the action distribution at every token.

        The arguments are those of `encode`.

        Returns:
            (batch, sequence, head_size) float32, see `agentic_transformer.models.heads`.
        """
        return self.head(self.encode(features, timestep, attention))

    def encode(
        self,
        features: jax.Array,
        timestep: jax.Array,
        attention: Attention,
        gather_params: GatherParams = lambda params: params,
        feedforward: Feedforward = lambda function, params, x: function(params, x),
    ) -> jax.Array:
        """Returns what the heads read at every token.

        Args:
            features: (batch, sequence, F) float32.
            timestep: (batch, sequence) int32.
            attention: exact causal attention of each layer.
            gather_params: gathers a block's sharded parameters just before they are used, and once
                more in the backward pass of a rematerialised block.
            feedforward: applies a block's feedforward network to the tokens, at once or in chunks.

        Returns:
            (batch, sequence, width) float32.
        """

        def apply_block(
            graph: nnx.GraphDef, layer: int | jax.Array, params: nnx.State, x: jax.Array
        ) -> jax.Array:
            def block(params: nnx.State, x: jax.Array) -> jax.Array:
                whole = nnx.merge(graph, gather_params(params))
                return whole(x, partial(attention, layer), feedforward)

            return _rematerialised(block, self.remat)(params, x)

        # (batch, sequence, width)
        x = self.embed(features)
        # Rows are looked up in float32, then rounded: so their gradients are summed in float32.
        x = x + self.timestep(timestep).astype(x.dtype)
        if self.scan_layers:
            # One compiled block for all layers: their parameters are stacked, (layers, ...).
            graph, params = nnx.split(self.blocks)
            layers = jnp.arange(jax.tree.leaves(params)[0].shape[0])
            x, _ = jax.lax.scan(
                lambda x, layer: (apply_block(graph, *layer, x), None), x, (layers, params)
            )
        else:
            for layer, block in enumerate(self.blocks):
                graph, params = nnx.split(block)
                x = apply_block(graph, layer, params, x)
        return self.norm(x)


def _stacked(blocks: Sequence[Block]) -> Block:
    """Stacks the parameters of all blocks in one block, (layers, ...)."""
    graphs, params = zip(*map(nnx.split, blocks), strict=True)
    return nnx.merge(graphs[0], jax.tree.map(lambda *layers: jnp.stack(layers), *params))


def unrolled(params: nnx.State) -> nnx.State:
    """Returns stacked parameters as those of the same model with a block for each layer.

    Args:
        params: parameters whose `blocks` are stacked, (layers, ...).
    """
    layers = jax.tree.leaves(params["blocks"])[0].shape[0]
    blocks = {
        layer: jax.tree.map(operator.itemgetter(layer), params["blocks"]) for layer in range(layers)
    }
    return nnx.State({**params, "blocks": blocks})


def _rematerialised(function: Callable[..., jax.Array], remat: str) -> Callable[..., jax.Array]:
    """Sets which activations of a function are kept for its gradient.

    "none" keeps all of them, "full" only the function's inputs. "block" also keeps the output and
    the log-sum-exp of attention, so that the backward pass recomputes everything but attention.
    "dots" keeps what "block" keeps, and the results of all products with parameters.
    """
    if remat == "none":
        return function
    policies = jax.checkpoint_policies
    attention = policies.save_only_these_names(*RESIDUAL_NAMES)
    policy = {
        "full": None,
        "block": attention,
        "dots": policies.save_from_both_policies(
            attention, policies.dots_with_no_batch_dims_saveable
        ),
    }[remat]
    return jax.checkpoint(function, policy=policy)
