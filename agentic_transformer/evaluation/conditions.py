"""Says which conditions an agent is evaluated under, on which tasks, and what each one needs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

import envs
from agentic_transformer.config import ANOTHER_TASK, AgentConfig, DataConfig, EvalConfig
from agentic_transformer.contexts.chains import available_episodes
from agentic_transformer.contexts.relabelled import RelabelledDataset
from agentic_transformer.contexts.training_data import training_tasks
from agentic_transformer.evaluation.oracles import ORACLES
from agentic_transformer.evaluation.retrieval import RETRIEVAL, uninformative
from agentic_transformer.learners import is_in_context, learner_condition
from agentic_transformer.models.spec import AgentSpec
from agentic_transformer.random_streams import stream
from agentic_transformer.settings import format_value

NEED_DATA = ("dataset", *RETRIEVAL, *ORACLES)
"""Conditions that need the trajectories of the training data."""


def baseline_condition(agent: AgentConfig) -> str | None:
    """Returns the condition of an agent that acts without a context, named after its kind.

    The known baselines (dt, bc, bc10, bc_told) draw trajectories uniformly, imitate all that they
    draw, and weight them alike. Other agents of single trajectories are `single` or `single_told`.
    The setting `imitate` changes no name. None is returned for an agent that has a context.
    """
    if not is_in_context(agent.learner):
        return learner_condition(agent.learner, agent.told)
    if agent.trajectories > 1:
        return None
    # The last of one trajectory is all of it.
    alike = agent.loss in ("all", "last") and agent.weighting == "none"
    known = alike and agent.selection == "uniform"
    conditioned = agent.return_conditioning == "return"
    if agent.told:
        return "bc_told" if known and not conditioned and agent.top == 0.1 else "single_told"
    names = {(True, 1.0): "dt", (False, 1.0): "bc", (False, 0.1): "bc10"}
    return names.get((conditioned, agent.top), "single") if known else "single"


def conditions_of(agent: AgentConfig, config: EvalConfig, task: str) -> list[str]:
    """Returns the conditions to evaluate; an agent without a context has one, its baseline.

    A task that is not hidden has no conditions of `ANOTHER_TASK`: there is no other task.
    """
    baseline = baseline_condition(agent)
    if baseline:
        return [baseline]
    without = () if envs.task(task).hidden else ANOTHER_TASK
    return [condition for condition in config.conditions if condition not in without]


def evaluation_tasks(
    task: str, config: EvalConfig, seed: int, data: DataConfig | None = None
) -> list[envs.Task]:
    """Returns the tasks to evaluate on, the same for every agent of a seed.

    The tasks of a family with parameters are held out: other goals than those of training, from the
    same distribution or (`config.held_out`) from beyond it.

    Args:
        task: the task or family of the run.
        config: how many tasks.
        seed: of the run.
        data: settings of the training data, whose tasks are not drawn; None: there are none.

    Raises:
        ValueError: tasks beyond those of training are asked for, and there are none.
    """
    rng = stream("evaluation tasks", config.seed, seed)
    beyond = config.held_out == "beyond"
    if not beyond and not envs.registry.has_parameters(envs.task(task)):
        return envs.draw_tasks(task, config.tasks, rng)
    training = training_tasks(task, data) if data else ()
    return envs.held_out_tasks(task, config.tasks, rng, training, beyond)


def other_tasks(tasks: Sequence[envs.Task], rng: np.random.Generator) -> list[envs.Task]:
    """Returns for each task another one, drawn from the given tasks.

    Raises:
        ValueError: they are all the same.
    """
    by_id = {task.id: task for task in tasks}
    if len(by_id) == 1:
        raise ValueError(
            f"condition 'foreign' needs two different tasks, all are {tasks[0].id}; "
            "leave it out of eval.conditions"
        )
    others = {
        own: [task for other, task in by_id.items() if other != own]
        for own in {task.id for task in tasks}
    }
    return [others[task.id][rng.integers(len(others[task.id]))] for task in tasks]


def check_conditions(
    conditions: Sequence[str],
    tasks: Sequence[envs.Task],
    config: EvalConfig,
    agent: AgentConfig,
    episodes: int | None,
) -> None:
    """Checks that every condition can be evaluated to its end.

    Args:
        conditions: the conditions to evaluate.
        tasks: the tasks to evaluate on.
        config: settings of the evaluation.
        agent: settings of the agent.
        episodes: number of trajectories in the data, or None if there are no data.

    Raises:
        ValueError: there is no condition, or one lacks a second task, the data, or enough
            trajectories in the data.
    """
    if not conditions:
        raise ValueError(
            f"eval.conditions={format_value(config.conditions)} leaves nothing to evaluate: task "
            f"{tasks[0].id} is not hidden, so there is no other task; allowed: another condition"
        )
    needing = [condition for condition in conditions if condition in NEED_DATA]
    if needing and episodes is None:
        raise ValueError(f"condition {needing[0]!r} needs the training data")
    if "foreign" in conditions:
        other_tasks(tasks, np.random.default_rng(0))
    for condition in ("dataset", *RETRIEVAL):
        if condition in conditions:
            _check_prompts(condition, max(config.trajectories), agent, episodes)


def check_retrieval(tasks: Sequence[envs.Task], config: EvalConfig, returns: np.ndarray) -> None:
    """Checks that the data have enough uninformative trajectories.

    Args:
        tasks: the tasks to evaluate on.
        config: settings of the evaluation.
        returns: (tasks, episodes) of the data.

    Raises:
        ValueError: the data lack some, no context is long enough to hide anything in, or a window
            would cut contexts off.
    """
    if config.window is not None:
        raise ValueError(
            f"condition 'retrieval' with eval.window={config.window}: a window forgets the "
            "trajectory that is to be retrieved; allowed: eval.window=null, and "
            "smaller eval.trajectories for shorter contexts"
        )
    longest = max(config.trajectories) - 1
    if not longest:
        raise ValueError(
            f"condition 'retrieval' needs a context; eval.trajectories={config.trajectories} asks "
            "for none; allowed: numbers from 2 on"
        )
    counts = uninformative(returns).sum(axis=1)  # (tasks,)
    fewest, available = int(counts.argmin()), int(counts.min())
    if longest > available:
        raise ValueError(
            f"condition 'retrieval' with eval.trajectories up to {longest + 1} needs {longest} "
            f"trajectories that earn almost nothing; the data have {available} for "
            f"{tasks[fewest].id}; allowed: up to {available + 1}"
        )


def _check_prompts(condition: str, longest: int, agent: AgentConfig, episodes: int) -> None:
    """Raises a ValueError unless the data have trajectories enough for the longest prompt."""
    available = available_episodes(episodes, agent.top)
    top = f" (the best {agent.top:g} of {episodes})" if agent.top < 1 else ""
    if condition == "dataset" and longest - 1 > available:
        raise ValueError(
            f"condition 'dataset' with eval.trajectories up to {longest} needs {longest - 1} "
            f"trajectories of the data, which have {available}{top}; allowed: up to "
            f"{available + 1}, or leave it out of eval.conditions"
        )
    if agent.trajectories > available:
        raise ValueError(
            f"condition {condition!r} draws from at least agent.trajectories={agent.trajectories} "
            f"trajectories, as in training, and the data have {available}{top}; bring the data of "
            "the training back (data.root), or leave it out of eval.conditions"
        )


def check_sizes(data: RelabelledDataset, spec: AgentSpec) -> None:
    """Checks that trajectories have the sizes of those that an agent learned from.

    Args:
        data: the trajectories.
        spec: the agent.

    Raises:
        ValueError: their observations, actions or steps are other than in training.
    """
    store = data.store
    for what, unit, here, trained in (
        ("observations", "numbers", store.observation_size, spec.observation_size),
        ("actions", "numbers", store.action_size, spec.action_size),
        ("trajectories", "steps", int(store.lengths[0]), spec.steps),
    ):
        if here != trained:
            raise ValueError(
                f"the data's {what} have {here} {unit}, those of training had {trained}: "
                "these are other data"
            )
