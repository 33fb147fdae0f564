"""Acts with a trained actor, which looks at the observation alone: TD3, TD3+BC, IQL, CQL, CRR."""

from __future__ import annotations

from dataclasses import replace

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from agentic_transformer.agents.attempts import Plays
from agentic_transformer.agents.base import Context, Trajectory
from agentic_transformer.contexts.tokens import PreviousStep
from agentic_transformer.models.actor_critic import Graphs, Params, Shape, init_networks
from agentic_transformer.models.precision import matmul_precision
from agentic_transformer.models.spec import AgentSpec


class ActorAgent(Plays):
    """Acts with a trained actor, see `agentic_transformer.agents.base.Agent`."""

    def __init__(self, graphs: Graphs, params: Params, spec: AgentSpec) -> None:
        """Takes trained networks; only the actor is used.

        Args:
            graphs: structures of the networks.
            params: their parameters.
            spec: how observations are normalized, and the precision of products.
        """
        self.spec = spec
        self.layout = spec.layout()
        self._actor = jax.jit(nnx.merge(graphs.actor, params["actor"]))

    @classmethod
    def init_params(cls, spec: AgentSpec) -> Params:
        """Returns fresh parameters of the networks that are trained."""
        return init_networks(Shape.of(spec), seed=0)[1]

    @classmethod
    def from_trained(cls, params: Params, spec: AgentSpec, mesh: Mesh | None = None) -> ActorAgent:
        """Returns the agent that training made; it needs no mesh."""
        graphs, _ = init_networks(Shape.of(spec), seed=0)
        return cls(graphs, params, spec)

    def new_context(self, batch: int, trajectories: int) -> Context:
        """Returns a context that remembers nothing."""
        return Context((), 0, PreviousStep.zeros(batch, self.spec.action_size), 0)

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
        """Returns actions for one step of every environment, see `Agent.act`; deterministic."""
        normalized = self.layout.normalizer.normalize(observation).astype(np.float32)
        with matmul_precision(self.spec.model.precision):
            action = jax.device_get(self._actor(normalized))
        return action, replace(context, encoded=context.encoded + 1)

    def append(self, context: Context, trajectory: Trajectory) -> Context:
        """Returns the context as it is: this agent remembers no trajectories."""
        return context
