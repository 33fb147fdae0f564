"""A context with its key/value cache that acts for a batch of environments.

Every token is encoded once, when it happens: acting reads the cached keys and values of all earlier
tokens and equals the uncached forward pass over the whole context. Contexts of a batch advance
together, so one position serves all of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from agentic_transformer.config import ModelConfig
from agentic_transformer.contexts.tokens import PreviousStep, returns_to_go
from agentic_transformer.models.heads import draw_action
from agentic_transformer.models.spec import AgentSpec
from agentic_transformer.models.transformer import unrolled
from agentic_transformer.ring import decode_attention, write_cache
from agentic_transformer.training import sharding

_SCORES = 2**28
"""Attention scores that may be held at once, over all rows, heads, new tokens and the cache: 1 GiB
in float32."""

LayerCache = tuple[jax.Array, jax.Array]
"""Keys and values of one layer, each (batch, capacity, heads, head_dim)."""


class Trajectory(NamedTuple):
    """One finished trajectory of each environment of a batch."""

    observation: np.ndarray
    """(batch, T, O)"""
    action: np.ndarray
    """(batch, T, A)"""
    reward: np.ndarray
    """(batch, T) raw"""
    target: np.ndarray
    """(batch,) the return it was, or is from now on said to have been, conditioned on"""


@dataclass(frozen=True)
class Context:
    """What a batch of agents remembers.

    Acting consumes it and returns the next; `copy` first to go two ways from it.
    """

    cache: tuple[LayerCache, ...]
    position: int
    """Tokens encoded so far."""
    past: PreviousStep
    """How the step before ended, per environment."""
    encoded: int
    """Tokens passed through the model per environment to get here, those encoded a second time
    included."""

    def copy(self) -> Context:
        """A context of its own, with its own cache."""
        return replace(self, cache=jax.tree.map(jnp.copy, self.cache))

    def rewound(self, to: Context) -> Context:
        """Back at an earlier context of the same agents: what was cached since will be written
        over.
        """
        return replace(self, position=to.position, past=to.past)

    def ended(self, past: PreviousStep) -> Context:
        """With how the last step ended."""
        return replace(self, past=past)


class Policy:
    """Parameters and what is needed to act with them."""

    def __init__(
        self,
        graph: nnx.GraphDef,
        params: nnx.State,
        description: AgentSpec,
        mesh: Mesh | None = None,
    ) -> None:
        """Holds a trained model.

        Args:
            graph: structure of the model.
            params: its parameters.
            description: how its tokens are made.
            mesh: where caches are to lie, sharded over the ring and batches over the data axis (see
                `mesh.make_mesh`); they stay there, queries come to them. None: on one device.

        Raises:
            ValueError: the model's layers are rolled or rematerialised; `from_trained` makes an
                agent of it.
        """
        if description.model.scan_layers or description.model.remat != "none":
            settings = f"model.scan_layers={description.model.scan_layers}, model.remat={description.model.remat}"
            raise ValueError(
                f"{settings}: for training alone; Policy.from_trained makes an agent of it"
            )
        self.description = description
        self._mesh = mesh
        self._graph = graph
        self.layout = description.layout()
        self._params = (
            params if mesh is None else jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
        )

    @classmethod
    def from_trained(
        cls, params: nnx.State, description: AgentSpec, mesh: Mesh | None = None
    ) -> Policy:
        """Returns the agent that training made, with the settings that acting needs.

        Args:
            params: parameters, as training keeps them.
            description: of the agent, as it was trained.
            mesh: see `Policy`.
        """
        acting = description.acting()
        graph = nnx.graphdef(nnx.eval_shape(lambda: acting.build(seed=0)))
        return cls(
            graph, unrolled(params) if description.model.scan_layers else params, acting, mesh
        )

    def new_context(self, batch: int, trajectories: int) -> Context:
        """Empty contexts that can hold `trajectories` trajectories each."""
        config = self.description.model
        capacity = trajectories * self.description.steps * self.layout.tokens_per_step
        if self._mesh is not None:
            blocks = 2 * self._mesh.shape[sharding.RING]
            capacity = -(-capacity // blocks) * blocks
        shape = (batch, capacity, config.heads, config.width // config.heads)
        dtype = jnp.dtype(config.dtype)
        place = (
            None
            if self._mesh is None
            else NamedSharding(self._mesh, PartitionSpec(sharding.DATA, sharding.RING))
        )
        empty = partial(jnp.zeros, shape, dtype, device=place)
        cache = tuple((empty(), empty()) for _ in range(config.layers))
        return Context(cache, 0, PreviousStep.nothing(batch, self.description.action_size), 0)

    def act(
        self,
        context: Context,
        return_to_go: np.ndarray,
        observation: np.ndarray,
        timestep: int,
        key: jax.Array,
        temperature: float,
        noise: float,
    ) -> tuple[np.ndarray, Context]:
        """Actions for one step of every environment.

        Args:
            context: of the batch; consumed.
            return_to_go: (batch,) raw.
            observation: (batch, O) raw.
            timestep: step within the trajectory.
            key: random key of this step.
            temperature: of the choice among components, see `heads.draw_action`.
            noise: scale of the Gaussian.

        Returns:
            Actions (batch, A) within [-1, 1], and the context with this step's token.

        Raises:
            ValueError: the context is full.
        """
        previous = PreviousStep(*(x[:, None] for x in context.past))
        step = np.full((len(observation), 1), timestep)
        features, timesteps = self.layout.continuation(
            return_to_go[:, None], observation[:, None], step, previous, fresh=context.position == 0
        )
        new = _check_room(context, timesteps)
        action, cache = _act(
            self._graph,
            self.description.model,
            self._mesh,
            self._params,
            context.cache,
            features=features,
            timestep=timesteps,
            position=context.position,
            key=key,
            temperature=temperature,
            noise=noise,
        )
        return np.asarray(action), replace(
            context, cache=cache, position=context.position + new, encoded=context.encoded + new
        )

    def append(self, context: Context, trajectory: Trajectory) -> Context:
        """Encodes finished trajectories at the end of the contexts, as many tokens at once as
        memory allows.

        Args:
            context: where they are put; consumed.
            trajectory: one per environment, conditioned on `trajectory.target`.

        Returns:
            The context that ends with them.

        Raises:
            ValueError: the contexts cannot hold them.
        """
        batch, steps = trajectory.reward.shape
        done = self.layout.completion(trajectory.target, trajectory.reward)

        def previous(x: np.ndarray, before: np.ndarray) -> np.ndarray:
            return np.concatenate([before[:, None], x[:, :-1]], axis=1)

        ended = PreviousStep(trajectory.action, trajectory.reward, done)
        features, timesteps = self.layout.continuation(
            returns_to_go(trajectory.target, trajectory.reward),
            trajectory.observation,
            np.tile(np.arange(steps), (batch, 1)),
            PreviousStep(
                *(previous(x, before) for x, before in zip(ended, context.past, strict=True))
            ),
            fresh=context.position == 0,
        )
        new, cache = _check_room(context, timesteps), context.cache
        together = self._together(*cache[0][0].shape)
        for start in range(0, new, together):
            part = slice(start, start + together)
            tokens = {
                "features": features[:, part],
                "timestep": timesteps[:, part],
                "position": context.position + start,
            }
            _, cache = _extend(self._graph, self._mesh, self._params, cache, **tokens)
        return Context(
            cache,
            context.position + new,
            PreviousStep(*(x[:, -1] for x in ended)),
            context.encoded + new,
        )

    def _together(self, batch: int, capacity: int, heads: int, _: int) -> int:
        """New tokens of which the scores against a whole cache, (batch, capacity, heads, head_dim),
        are held at once.
        """
        if self._mesh is not None:
            batch, capacity = (
                batch // self._mesh.shape[sharding.DATA],
                capacity // self._mesh.shape[sharding.RING],
            )
        elif jax.default_backend() == "cpu":
            batch = 1  # see `_attend_here`
        return max(1, _SCORES // (batch * heads * capacity))


def _check_room(context: Context, timesteps: np.ndarray) -> int:
    """How many tokens there are to encode, (batch, tokens); raises a ValueError unless the context
    can hold them.
    """
    capacity, new = context.cache[0][0].shape[1], timesteps.shape[1]
    if context.position + new > capacity:
        raise ValueError(
            f"a context made for {capacity} tokens holds {context.position}; {new} more do not fit"
        )
    return new


# Compiled once for all policies of one structure.
@partial(jax.jit, static_argnames=("graph", "mesh"), donate_argnames="cache")
def _extend(
    graph: nnx.GraphDef,
    mesh: Mesh | None,
    params: nnx.State,
    cache: tuple[LayerCache, ...],
    features: jax.Array,
    timestep: jax.Array,
    position: jax.Array,
) -> tuple[jax.Array, tuple[LayerCache, ...]]:
    """Encodes new tokens (batch, new, F) behind the first `position` tokens of the cache; (outputs,
    cache).
    """
    extended: list[LayerCache] = []

    def attend(layer: int, query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        attention = _attend_here if mesh is None else partial(_attend_sharded, mesh)
        output, layer_cache = attention(query, (key, value), cache[layer], position)
        extended.append(layer_cache)
        return output

    outputs = nnx.merge(graph, params)(features, timestep, attend)
    return outputs, tuple(extended)


def _attend_here(
    query: jax.Array, new: LayerCache, cache: LayerCache, position: jax.Array
) -> tuple[jax.Array, LayerCache]:
    """Attention of new tokens (batch, new, heads, head_dim) to the cache with them; one device."""
    keys, values = (
        jax.lax.dynamic_update_slice_in_dim(old, x, position, axis=1)
        for old, x in zip(cache, new, strict=True)
    )
    # Query i stands at `position + i` and sees the cache up to and with itself: (capacity, new)
    visible = jnp.arange(keys.shape[1])[:, None] <= position + jnp.arange(query.shape[1])[None, :]

    def one(row: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        query, keys, values = row  # (tokens, heads, head_dim)
        scores = (
            jnp.einsum("qhd,khd->hkq", query, keys, preferred_element_type=jnp.float32)
            * query.shape[-1] ** -0.5
        )
        weights = jax.nn.softmax(jnp.where(visible, scores, -jnp.inf), axis=1)
        return jnp.einsum("hkq,khd->qhd", weights.astype(values.dtype), values)

    # A CPU takes one row at a time: for a whole batch, XLA's backend would first make a transposed
    # copy of the cache.
    at_once = None if jax.default_backend() == "cpu" else len(query)
    return jax.lax.map(one, (query, keys, values), batch_size=at_once), (keys, values)


def _attend_sharded(
    mesh: Mesh, query: jax.Array, new: LayerCache, cache: LayerCache, position: jax.Array
) -> tuple[jax.Array, LayerCache]:
    """As `_attend_here`, with a cache that is sharded over the ring."""
    where = {
        "mesh": mesh,
        "axis": sharding.RING,
        "batch_axis": sharding.DATA,
        "layout": "contiguous",
    }
    at = jnp.broadcast_to(position + jnp.arange(query.shape[1]), query.shape[:2])
    keys, values = (write_cache(old, x, at, **where) for old, x in zip(cache, new, strict=True))
    return decode_attention(query, keys, values, at, **where), (keys, values)


@partial(jax.jit, static_argnames=("graph", "model", "mesh"), donate_argnames="cache")
def _act(
    graph: nnx.GraphDef,
    model: ModelConfig,
    mesh: Mesh | None,
    params: nnx.State,
    cache: tuple[LayerCache, ...],
    features: jax.Array,
    timestep: jax.Array,
    position: jax.Array,
    key: jax.Array,
    temperature: jax.Array,
    noise: jax.Array,
) -> tuple[jax.Array, tuple[LayerCache, ...]]:
    outputs, cache = _extend(graph, mesh, params, cache, features, timestep, position)
    return draw_action(model, outputs[:, -1], key, temperature, noise), cache
