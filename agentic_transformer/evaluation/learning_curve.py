"""Evaluates an agent while it is trained: the learning curve of its returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd

from agentic_transformer.agents.base import Agent, Context
from agentic_transformer.agents.load import make_agent
from agentic_transformer.config import TrainCommand
from agentic_transformer.evaluation.conditions import baseline_condition, evaluation_tasks
from agentic_transformer.evaluation.rollouts import Evaluation
from agentic_transformer.evaluation.statistics import interval
from agentic_transformer.models.spec import AgentSpec
from agentic_transformer.run_files import write_config
from agentic_transformer.same_run import check_goes_on
from agentic_transformer.training import train as training
from agentic_transformer.training.state import TrainState
from agentic_transformer.validation import check_command


def train(
    config: TrainCommand,
    run: Path | str,
    should_stop: Callable[[], bool] = lambda: False,
    note: Callable[..., None] = lambda **facts: None,
    stopped: Callable[[], bool] | None = None,
) -> TrainState:
    """Trains an agent, and evaluates it every `train.eval_every` steps.

    If the folder holds a run with these settings, training goes on with it. `train.steps` may be
    larger than before.

    Args:
        config: all settings, see `agentic_transformer.config`.
        run: the run's folder. It gets a `config.yaml`, so that every command takes it for a run.
        should_stop: see `agentic_transformer.training.train.train`.
        note: see there.
        stopped: asked before each action of an evaluation; once it is true, the evaluation ends
            without a result. It is about this process alone, while all processes call `should_stop`
            together. None: `should_stop`, for a run of one process.

    Returns:
        The trained state. It does not depend on whether the agent was evaluated.

    Raises:
        UserError: settings are wrong or do not fit each other, or the folder holds a run that they
            would make learn something else.
        ValueError, FloatingPointError, OSError: see there.
    """
    check_command(config)
    run = Path(run)
    check_goes_on(run, config)

    def describe(**facts: Any) -> None:
        """Writes the settings once the data are there; process 0 calls this."""
        run.mkdir(parents=True, exist_ok=True)
        write_config(run, config)  # of a run that goes on, too: it may have more steps now
        note(**facts)

    evaluate = SmallEvaluation(config, stopped or should_stop)
    return training.train(config, run, should_stop, describe, evaluate)


class SmallEvaluation:
    """Measures the returns of an agent's own attempts on a few tasks.

    Tasks, start states and draws of actions are the same each time, and those of the evaluation of
    the trained run with `eval.tasks=<train.eval_tasks>`. No data are read.
    """

    def __init__(self, config: TrainCommand, stopped: Callable[[], bool] = lambda: False) -> None:
        """Draws the tasks.

        Args:
            config: settings of the run.
            stopped: asked before each action; once it is true, there is no result.
        """
        self._config = replace(config.eval, tasks=config.train.eval_tasks)
        self._tasks = (
            evaluation_tasks(config.task, self._config, config.seed, config.data)
            if config.train.eval_every
            else []
        )
        self._stopped = stopped

    def __call__(self, spec: AgentSpec, params: Any) -> list[dict[str, float]]:
        """Returns a row for n = 1 and one for the largest n of `eval.trajectories`.

        Args:
            spec: the agent.
            params: its parameters, on the host.

        Returns:
            For each n: `trajectories` (n), the mean `return` of the n-th attempt over the tasks,
            and the ends `low` and `high` of its 95% interval; nothing if `stopped` became true.
        """
        device = jax.local_devices()[0]
        agent = _StoppableAgent(make_agent(spec, jax.device_put(params, device)), self._stopped)
        evaluation = Evaluation(agent, self._tasks, self._config)
        condition = baseline_condition(spec.agent) or "own"
        try:
            return [
                _row(attempt.number, evaluation.records(condition, attempt))
                for attempt in evaluation.attempts(condition)
                if attempt.number in (1, evaluation.longest)
            ]
        except _EvaluationStoppedError:
            return []


class _EvaluationStoppedError(Exception):
    """Ends an evaluation that was told to stop."""


class _StoppableAgent:
    """Acts as another agent does, until it is told to stop: an attempt may take a minute."""

    def __init__(self, agent: Agent, stopped: Callable[[], bool]) -> None:
        self._agent, self._stopped = agent, stopped

    def __getattr__(self, name: str) -> Any:
        return getattr(self._agent, name)

    def act(self, *arguments: Any) -> tuple[np.ndarray, Context]:
        """Returns actions, see `Agent.act`."""
        if self._stopped():
            raise _EvaluationStoppedError
        return self._agent.act(*arguments)


def _row(number: int, records: pd.DataFrame) -> dict[str, float]:
    """Returns the mean return of an attempt's records with its interval."""
    mean, low, high = interval(records["return"], records["seed"])
    return {"trajectories": number, "return": mean, "low": low, "high": high}
