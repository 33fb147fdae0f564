"""Acts with the transformer: a key/value cache remembers the context.

A token is encoded when its step happens. Acting reads the cached keys and values of all earlier
tokens and equals the uncached forward pass over the whole context. Finished trajectories are
encoded again if their target changes or a window forgets one, see `agents.attempts`.
"""

from __future__ import annotations

from dataclasses import replace

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from agentic_transformer.agents.attempts import Plays
from agentic_transformer.agents.base import Context, Trajectory
from agentic_transformer.agents.cache import empty_cache, tokens_at_once
from agentic_transformer.agents.programs import compiled_programs, pack_tokens
from agentic_transformer.contexts.chain_tokens import returns_to_go
from agentic_transformer.contexts.tokens import PreviousStep
from agentic_transformer.models.spec import AgentSpec
from agentic_transformer.models.transformer import unrolled


class TransformerAgent(Plays):
    """Acts with a trained transformer, see `agentic_transformer.agents.base.Agent`."""

    def __init__(
        self, graph: nnx.GraphDef, params: nnx.State, spec: AgentSpec, mesh: Mesh | None = None
    ) -> None:
        """Takes a model that is ready to act; `from_trained` makes one ready.

        Args:
            graph: structure of the model.
            params: its parameters.
            spec: how its tokens are made.
            mesh: devices; caches are sharded over the ring, batches over the data axis. Caches stay
                where they are, and queries travel to them. None: one device.

        Raises:
            ValueError: the model's layers are scanned or rematerialised.
        """
        if spec.model.scan_layers or spec.model.remat != "none":
            settings = f"model.scan_layers={spec.model.scan_layers}, model.remat={spec.model.remat}"
            raise ValueError(
                f"{settings}: for training alone; "
                "TransformerAgent.from_trained makes an agent of it"
            )
        self.spec = spec
        self.layout = spec.layout()
        self._mesh = mesh
        self._graph = graph
        whole = None if mesh is None else NamedSharding(mesh, PartitionSpec())
        self._params = jax.device_put(params, whole)
        # Each call flattens its arguments, and a list of arrays much faster than a model's state.
        self._leaves, structure = jax.tree.flatten(self._params)
        self._programs = compiled_programs(
            graph, structure, spec.model, self.layout.feature_size, mesh
        )

    @staticmethod
    def init_params(spec: AgentSpec) -> nnx.State:
        """Returns fresh parameters of the model, as training keeps them."""
        return nnx.state(spec.build(seed=0), nnx.Param)

    @classmethod
    def from_trained(
        cls, params: nnx.State, spec: AgentSpec, mesh: Mesh | None = None
    ) -> TransformerAgent:
        """Returns the agent that training made, with the settings that acting needs.

        Args:
            params: parameters, as training keeps them.
            spec: the agent as it was trained.
            mesh: devices, see `__init__`.
        """
        acting = spec.for_acting()
        graph = nnx.graphdef(nnx.eval_shape(lambda: acting.build(seed=0)))
        return cls(graph, unrolled(params) if spec.model.scan_layers else params, acting, mesh)

    def new_context(self, batch: int, trajectories: int) -> Context:
        """Returns empty contexts that can hold `trajectories` trajectories each.

        Args:
            batch: number of environments.
            trajectories: how many trajectories each context can hold.

        Raises:
            ValueError: the batch does not divide over the mesh.
        """
        capacity = trajectories * self.spec.steps * self.layout.tokens_per_step
        # With the sharding of the parameters, as every later cache has it: with another sharding
        # each program would compile twice.
        cache = empty_cache(self.spec.model, batch, capacity, self._mesh, self._leaves[0].sharding)
        return Context(cache, 0, PreviousStep.zeros(batch, self.spec.action_size), 0)

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
        """Returns actions for one step of every environment, see `Agent.act`."""
        # The layout encodes several steps; here there is one: (batch, ...) -> (batch, 1, ...)
        features, timesteps = self.layout.encode_steps(
            return_to_go[:, None],
            observation[:, None],
            np.full((len(observation), 1), timestep),
            PreviousStep(*(x[:, None] for x in context.previous)),
            starts_chain=context.position == 0,
        )
        new_tokens = _check_room(context, timesteps)
        packed = pack_tokens(features, timesteps, context.position, temperature, noise)
        drawn, cache = self._programs.act(self._leaves, context.cache, packed, key)
        action, outputs = np.split(jax.device_get(drawn), [self.spec.action_size], axis=1)
        return action, replace(
            context,
            cache=cache,
            position=context.position + new_tokens,
            encoded=context.encoded + new_tokens,
            outputs=outputs if self.spec.model.head == "mixture" else None,
        )

    def append(self, context: Context, trajectory: Trajectory) -> Context:
        """Encodes finished trajectories, as many tokens at once as memory allows.

        See `Agent.append`.
        """
        outcome = self._outcomes(trajectory)
        features, timesteps = self._encode(context, trajectory, outcome)
        new_tokens, cache = _check_room(context, timesteps), context.cache
        chunk = tokens_at_once(cache, self._mesh)
        # A chunk attends to all earlier tokens and to itself, so chunks give what one pass gives.
        for start in range(0, new_tokens, chunk):
            part = slice(start, start + chunk)
            packed = pack_tokens(features[:, part], timesteps[:, part], context.position + start)
            cache = self._programs.extend(self._leaves, cache, packed)
        last = PreviousStep(*(x[:, -1] for x in outcome))
        return Context(cache, context.position + new_tokens, last, context.encoded + new_tokens)

    def _outcomes(self, trajectory: Trajectory) -> PreviousStep:
        """Returns the outcome of every step of the trajectories, (batch, T, ...)."""
        done = self.layout.completion(trajectory.target, trajectory.reward)
        return PreviousStep(trajectory.action, trajectory.reward, done)

    def _encode(
        self, context: Context, trajectory: Trajectory, outcome: PreviousStep
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns features (batch, tokens, F) and timesteps (batch, tokens) of trajectories."""
        batch, steps = trajectory.reward.shape
        previous = PreviousStep(
            *(
                np.concatenate([before[:, None], x[:, :-1]], axis=1)  # shifted by one step
                for x, before in zip(outcome, context.previous, strict=True)
            )
        )
        return self.layout.encode_steps(
            returns_to_go(trajectory.target, trajectory.reward),
            trajectory.observation,
            np.tile(np.arange(steps), (batch, 1)),
            previous,
            starts_chain=context.position == 0,
        )


def _check_room(context: Context, timesteps: np.ndarray) -> int:
    """Returns the number of tokens to encode, of timesteps (batch, tokens).

    Raises:
        ValueError: the context cannot hold them.
    """
    capacity, new = context.cache[0][0].shape[1], timesteps.shape[1]
    if context.position + new > capacity:
        raise ValueError(
            f"a context made for {capacity} tokens holds {context.position}; {new} more do not fit"
        )
    return new
