"""Describes an agent: the spec that, with the parameters, is enough to rebuild and run it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from flax import nnx

from agentic_transformer.config import (
    AgentConfig,
    CQLConfig,
    CRRConfig,
    IQLConfig,
    ModelConfig,
    TD3BCConfig,
)
from agentic_transformer.contexts.normalizer import Normalizer
from agentic_transformer.contexts.token_layouts import TOKEN_LAYOUTS
from agentic_transformer.contexts.tokens import TokenLayout
from agentic_transformer.models.transformer import AgenticTransformer

ACTING = {"dtype": "float32", "remat": "none", "scan_layers": False, "blockwise_feedforward": False}
"""Settings of `model` with which every agent acts, however it was trained. Their other values save
memory or time in training on long sequences, and acting computes no gradients."""


@dataclass(frozen=True)
class AgentSpec:
    """Describes an agent: all that is needed to rebuild it, except its parameters."""

    task: str
    seed: int
    agent: AgentConfig
    model: ModelConfig
    normalizer: Normalizer
    observation_size: int
    action_size: int
    steps: int
    """Steps of a trajectory."""
    best_return: float
    """The best return in the training data; the agent is asked for a fraction of it."""
    action_repeat: int = 1
    """Environment steps for which the agent repeats an action."""
    td3_bc: TD3BCConfig = field(default_factory=TD3BCConfig)
    """Used if the agent's learner is TD3 or TD3+BC."""
    iql: IQLConfig = field(default_factory=IQLConfig)
    """Used if the agent's learner is IQL."""
    cql: CQLConfig = field(default_factory=CQLConfig)
    """Used if the agent's learner is CQL."""
    crr: CRRConfig = field(default_factory=CRRConfig)
    """Used if the agent's learner is CRR."""

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> AgentSpec:
        """Rebuilds a spec from the values that `to_dict` returned.

        Raises:
            ValueError: the values are not those of an agent of this version.
        """
        try:
            parts = {
                "agent": AgentConfig(**values["agent"]),
                "model": ModelConfig(**values["model"]),
                "normalizer": Normalizer.from_dict(values["normalizer"]),
                "td3_bc": TD3BCConfig(**values.get("td3_bc", {})),
                "iql": IQLConfig(**values.get("iql", {})),
                "cql": CQLConfig(**values.get("cql", {})),
                "crr": CRRConfig(**values.get("crr", {})),
            }
            return cls(**{**values, **parts})
        except (KeyError, TypeError) as error:
            raise ValueError(f"not the description of an agent of this version: {error}") from error

    def layout(self) -> TokenLayout:
        """Returns how the agent's tokens are made."""
        layout = TOKEN_LAYOUTS[self.model.tokens]
        conditioned = self.agent.return_conditioning == "return"
        return layout(self.normalizer, self.action_size, self.steps, conditioned)

    def build(self, seed: int) -> AgenticTransformer:
        """Returns a freshly initialised model of this agent's shape."""
        return AgenticTransformer(
            self.model,
            self.layout().feature_size,
            self.action_size,
            self.steps,
            nnx.Rngs(seed),
            with_value=self.agent.weighting == "advantage",
        )

    def for_acting(self) -> AgentSpec:
        """Returns the spec of the same agent with the settings that acting needs."""
        return replace(self, model=replace(self.model, **ACTING))
