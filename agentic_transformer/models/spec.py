"""What an agent is besides its parameters: enough, with them, to rebuild and run it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from flax import nnx

from agentic_transformer.config import AgentConfig, ModelConfig, TD3BCConfig, rename_settings
from agentic_transformer.contexts.tokens import TOKEN_LAYOUTS, Normalizer, TokenLayout
from agentic_transformer.models.transformer import AgenticTransformer

ACTING = {"dtype": "float32", "remat": "none", "scan_layers": False, "blockwise_feedforward": False}
"""Settings of `model` with which every agent acts. How it was trained decides none of them: they
save memory or time where gradients are computed over long sequences, and acting computes none."""


@dataclass(frozen=True)
class AgentSpec:
    """What an agent is besides its parameters."""

    task: str
    seed: int
    agent: AgentConfig
    model: ModelConfig
    scaling: Normalizer
    observation_size: int
    action_size: int
    steps: int
    """Steps of a trajectory."""
    best_return: float
    """The best return of the training data; what the agent is asked for is a fraction of it."""
    action_repeat: int = 1
    """Environment steps of one of its steps."""
    td3_bc: TD3BCConfig = field(default_factory=TD3BCConfig)
    """Of an agent whose learner that is."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    def layout(self) -> TokenLayout:
        """How its tokens are made."""
        layout = TOKEN_LAYOUTS[self.model.tokens]
        return layout(
            self.scaling,
            self.action_size,
            self.steps,
            conditioned=self.agent.return_conditioning == "return",
        )

    def build(self, seed: int) -> AgenticTransformer:
        """A freshly initialised model of this agent's shape."""
        return AgenticTransformer(
            self.model, self.layout().features, self.action_size, self.steps, nnx.Rngs(seed)
        )

    def acting(self) -> AgentSpec:
        """Returns the description of the same agent, with the settings that acting needs."""
        return replace(self, model=replace(self.model, **ACTING))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> AgentSpec:
        """The inverse of `to_dict`."""
        rename_settings(values, "checkpoint")
        parts = {
            "agent": AgentConfig(**values["agent"]),
            "model": ModelConfig(**values["model"]),
            "scaling": Normalizer.from_dict(values["scaling"]),
            "td3_bc": TD3BCConfig(**values.get("td3_bc", {})),
        }
        return cls(**{**values, **parts})
