"""Lists the learners: what trains each one, what acts with it, and how figures show it.

A learner is a value of `agent.learner`: a key of `LEARNERS`, or `<module>:<NAME>`, a `LearnerKind`
in a user's own module. Its classes are written as "module:class", and imported only to train or to
act: settings are checked and figures are drawn without jax, and without the user's module.
"""

from __future__ import annotations

from dataclasses import dataclass

from agentic_transformer.errors import listing, nearest, raise_config_error
from agentic_transformer.imports import FORM, check_module, import_object, is_import_name


@dataclass(frozen=True)
class LearnerKind:
    """Describes a learner."""

    trains: str
    """Class that follows `agentic_transformer.training.learner.Learner`."""
    acts: str
    """Class that follows `agentic_transformer.agents.base.Agent`."""
    shape: tuple[str, ...] = ()
    """Settings that decide what its parameters are; keys of an `AgentSpec`."""
    loss_ranks: bool = True
    """Whether a smaller loss means a better checkpoint of a run. This is not so for an error of
    temporal differences: it grows with the values that are learned."""


@dataclass(frozen=True, kw_only=True)
class ListedLearner(LearnerKind):
    """Describes a learner of this repository."""

    meaning: str
    """What it is, for `--help`."""
    label: str = ""
    """Its name in figures."""
    style: tuple[str, str] = ("#000000", "o")
    """Its colour and its marker in figures."""
    in_context: bool = False
    """If true, chains of trajectories train it on all devices, and it acts by attention to a
    context. If false, single transitions train it on one device, and it is a condition of its own,
    which figures show by `label` and `style`."""


_MODEL = ("tokens", "width", "layers", "heads", "feedforward", "head", "components", "scan_layers")
_ACTOR = {"acts": "agentic_transformer.agents.actor:ActorAgent", "loss_ranks": False}
_TD3_BC = {
    "trains": "agentic_transformer.training.td3_bc:TD3BCLearner",
    "shape": ("td3_bc.width", "td3_bc.layers"),
    **_ACTOR,
}

LEARNERS = {
    "transformer": ListedLearner(
        trains="agentic_transformer.training.learner:TransformerLearner",
        acts="agentic_transformer.agents.transformer:TransformerAgent",
        # With advantages as weights, the model has a value head.
        shape=(*(f"model.{name}" for name in _MODEL), "steps", "agent.weighting"),
        meaning="a sequence model of chains of trajectories",
        in_context=True,
    ),
    "td3": ListedLearner(
        **_TD3_BC,
        meaning="temporal-difference learning, with the settings of td3_bc",
        label="TD3",
        style=("#a23b72", "h"),
    ),
    "td3_bc": ListedLearner(
        **_TD3_BC,
        meaning="TD3 that also clones the data's actions",
        label="TD3+BC",
        style=("#1b998b", "*"),
    ),
    "iql": ListedLearner(
        trains="agentic_transformer.training.iql:IQLLearner",
        shape=("iql.width", "iql.layers"),
        **_ACTOR,
        meaning="implicit Q-learning, which values only actions of the data",
        label="IQL",
        style=("#8f9100", "8"),
    ),
    "cql": ListedLearner(
        trains="agentic_transformer.training.cql:CQLLearner",
        shape=("cql.width", "cql.layers"),
        **_ACTOR,
        meaning="conservative Q-learning, which lowers the values of actions that the data lack",
        label="CQL",
        style=("#c9184a", "1"),
    ),
    "crr": ListedLearner(
        trains="agentic_transformer.training.crr:CRRLearner",
        shape=("crr.width", "crr.layers"),
        **_ACTOR,
        meaning="critic regularized regression, which clones the better actions of the data",
        label="CRR",
        style=("#386641", "4"),
    ),
}
"""The learners of this repository, by the value of `agent.learner`."""

_EXTERNAL = "learner"
"""The condition of all learners of users' modules; agents' names tell them apart."""


def check_learner(name: str, key: str = "agent.learner") -> None:
    """Raises a UserError if there is no such learner, as far as can be told without importing it.

    Args:
        name: value of the setting.
        key: the setting.
    """
    if name in LEARNERS:
        return
    if not is_import_name(name):
        allowed = f"{listing(LEARNERS)}, {FORM}"
        raise_config_error(f"{key}={name}: unknown", allowed, nearest(name, LEARNERS))
    check_module(name, f"{key}={name}")


def find_learner(name: str) -> LearnerKind:
    """Returns the learner of a value of `agent.learner`; imports the module that it may name.

    Raises:
        UserError: there is no such learner.
    """
    check_learner(name)
    return LEARNERS.get(name) or import_object(name, LearnerKind, f"agent.learner={name}")


def training_class(name: str) -> type:
    """Returns the class that trains a learner.

    Raises:
        UserError: there is no such learner, or no such class.
    """
    return import_object(find_learner(name).trains, type, f"trains of agent.learner={name}")


def acting_class(name: str) -> type:
    """Returns the class that acts with what a learner has trained.

    Raises:
        UserError: there is no such learner, or no such class.
    """
    return import_object(find_learner(name).acts, type, f"acts of agent.learner={name}")


def is_in_context(name: str) -> bool:
    """Returns whether a learner acts with a context; one of a user's module never does."""
    return name in LEARNERS and LEARNERS[name].in_context


def learner_condition(name: str, told: bool) -> str:
    """Returns the condition of an agent whose learner acts without a context.

    Args:
        name: value of `agent.learner`.
        told: whether the agent is told the task.
    """
    condition = name if name in LEARNERS else _EXTERNAL
    return f"{condition}_told" if told else condition


def learner_conditions() -> dict[str, tuple[str, str, str, str]]:
    """Returns the conditions of learners that act without a context, as figures show them.

    Returns:
        The name, the colour, the marker and the line of each condition.
    """
    shown = {
        name: (kind.label, kind.style) for name, kind in LEARNERS.items() if not kind.in_context
    }
    shown[_EXTERNAL] = ("external learner", ("#e377c2", "d"))
    return {
        condition: (name, *style, line)
        for learner, (label, style) in shown.items()
        for condition, name, line in (
            (learner_condition(learner, told=False), label, ":"),
            (learner_condition(learner, told=True), f"{label}, told the task", "--"),
        )
    }
