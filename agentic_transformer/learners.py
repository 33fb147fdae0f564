"""Lists the learners: what trains each one, what acts with it, and how figures show it.

A learner is a value of `agent.learner`. Its classes are named as "module:class", to be imported by
those that train and act: settings are checked and figures are drawn without jax.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LearnerKind:
    """Describes a learner."""

    meaning: str
    """What it is, for `--help`."""
    trains: str
    """Class that follows `agentic_transformer.training.learner.Learner`."""
    acts: str
    """Class that follows `agentic_transformer.agents.base.Agent`."""
    shape: tuple[str, ...] = ()
    """Settings that decide what its parameters are; keys of an `AgentSpec`."""
    label: str = ""
    """Its name in figures."""
    style: tuple[str, str] = ("#000000", "o")
    """Its colour and its marker in figures."""
    in_context: bool = False
    """Whether chains of trajectories train it, on all devices, and it acts by attention to a
    context. Else one device trains it with single transitions, and the learner is a condition of
    its own, shown by `label` and `style`."""


_MODEL = ("tokens", "width", "layers", "heads", "feedforward", "head", "components", "scan_layers")
_TD3_BC = {
    "trains": "agentic_transformer.training.td3_bc:TD3BCLearner",
    "acts": "agentic_transformer.agents.td3_bc:TD3BCAgent",
    "shape": ("td3_bc.width", "td3_bc.layers"),
}

LEARNERS = {
    "transformer": LearnerKind(
        "a sequence model of chains of trajectories",
        trains="agentic_transformer.training.learner:TransformerLearner",
        acts="agentic_transformer.agents.transformer:TransformerAgent",
        # With advantages as weights, the model has a value head.
        shape=(*(f"model.{name}" for name in _MODEL), "steps", "agent.weighting"),
        in_context=True,
    ),
    "td3": LearnerKind(
        "temporal differences, with the settings of td3_bc",
        **_TD3_BC,
        label="TD3",
        style=("#a23b72", "h"),
    ),
    "td3_bc": LearnerKind(
        "the same, which also clones the data's actions",
        **_TD3_BC,
        label="TD3+BC",
        style=("#1b998b", "*"),
    ),
}
"""Learners by the value of `agent.learner`."""


def find_learner(name: str) -> LearnerKind:
    """Returns the learner of a value of `agent.learner`.

    Raises:
        ValueError: there is no such learner.
    """
    if name not in LEARNERS:
        raise ValueError(
            f"agent.learner={name} is unknown; allowed: {', '.join(sorted(LEARNERS))}, or a new "
            "entry of LEARNERS in agentic_transformer/learners.py"
        )
    return LEARNERS[name]


def learner_conditions() -> dict[str, tuple[str, tuple[str, str, str]]]:
    """Returns the conditions of learners that act without a context, as figures show them.

    Returns:
        The name of each condition, and its colour, marker and line.
    """
    return {
        condition: (label, (*kind.style, line))
        for learner, kind in LEARNERS.items()
        if not kind.in_context
        for condition, label, line in (
            (learner, kind.label, ":"),
            (f"{learner}_told", f"{kind.label}, told the task", "--"),
        )
    }
