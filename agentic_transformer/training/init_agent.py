"""Starts training from the parameters of another run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from agentic_transformer.learners import find_learner
from agentic_transformer.models.spec import AgentSpec
from agentic_transformer.settings import value_at
from agentic_transformer.training.checkpoint_reader import CheckpointReader

_SAID = {
    "observation_size": "the size of observations",
    "action_size": "the size of actions",
    "steps": "the number of steps",
}
"""What a spec holds besides settings, in words."""


class InitialAgent:
    """Holds the newest agent of the run that `init` names."""

    def __init__(self, run: str) -> None:
        """Finds the newest whole checkpoint; every process must call this.

        Raises:
            ValueError: there is none.
        """
        self._run, self._checkpoints = run, CheckpointReader(Path(run))
        self._step = self._checkpoints.newest()
        self._spec = AgentSpec.from_dict(self._checkpoints.spec(self._step))

    @property
    def name(self) -> str:
        """Returns the checkpoint's folder and the digest of what it holds."""
        return f"{self._checkpoints.path(self._step)} {self._checkpoints.digest(self._step)}"

    def check(self, spec: AgentSpec) -> None:
        """Checks that an agent can have these parameters.

        Args:
            spec: the agent.

        Raises:
            ValueError: it is of another kind or of another size.
        """
        there, here = _shape(self._spec), _shape(spec)
        if different := [name for name in here if name in there and there[name] != here[name]]:
            said = "; ".join(
                f"{name} is {there[name]} there and {here[name]} here" for name in different[:3]
            )
            raise ValueError(
                f"init={self._run}: its parameters do not fit this agent: {said}\n"
                "  allowed: a run whose agent has the same shape"
            )

    def scaled(self, spec: AgentSpec) -> AgentSpec:
        """Returns a spec with the scales of this agent."""
        return with_scales_of(spec, self._spec)

    def params(self, like: Any) -> Any:
        """Returns the parameters, with the shardings of `like`."""
        return self._checkpoints.params(self._step, like)


def with_scales_of(spec: AgentSpec, there: AgentSpec) -> AgentSpec:
    """Returns a spec with the scales of observations and returns that another agent has."""
    # agent.reward_scale is a setting of this run.
    reward_scale = spec.normalizer.reward_scale
    return replace(spec, normalizer=replace(there.normalizer, reward_scale=reward_scale))


def _shape(spec: AgentSpec) -> dict[str, Any]:
    """Returns what the parameters of an agent depend on, by setting."""
    shape = find_learner(spec.agent.learner).shape
    keys = ("agent.learner", "observation_size", "action_size", *shape)
    return {_SAID.get(key, key): value_at(spec, key) for key in keys}
