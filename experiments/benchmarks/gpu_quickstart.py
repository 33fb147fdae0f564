"""Measures the quickstart's training and evaluation, and what its steps wait for (suite `gpu`)."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from agentic_transformer.agents.transformer import TransformerAgent
from agentic_transformer.config import (
    CollectCommand,
    DataConfig,
    EvalConfig,
    ModelConfig,
    QuickstartCommand,
    TrainCommand,
)
from agentic_transformer.contexts.training_data import evaluation_data, training_data
from agentic_transformer.evaluation.conditions import evaluation_tasks
from agentic_transformer.evaluation.rollouts import Evaluation
from agentic_transformer.training.learner import TransformerLearner
from agentic_transformer.training.loop import fit, prefetch
from agentic_transformer.training.train import describe_agent
from experiments import collect, quickstart
from experiments.benchmarks.gpu_timing import Clock, is_small, measure_row, time_in_turn

_ROW_SECONDS = 30
_UNCOUNTED = 20
"""First steps, which compile and fill the queue."""


def rows(clock: Clock) -> Iterator[dict[str, Any]]:
    """Yields steps of training a second, and seconds of the evaluation, of agent and baseline.

    The evaluation is whole and is made twice: the first time it compiles its programs. The agents
    are hardly trained and the data are a tenth of the quickstart's, which changes no time. Data are
    collected first.
    """
    config, steps = QuickstartCommand(), 400
    config.data.episodes = 400
    if is_small():
        config.data = DataConfig(episodes=40, tasks=3)
        config.eval = EvalConfig(trajectories=[2], tasks=2, conditions=["own"])
        config.model = ModelConfig(width=16, layers=1)
        config.train.batch = 2
        steps = 4
    with tempfile.TemporaryDirectory() as folder:
        config.data = replace(config.data, root=folder)
        collect.main(CollectCommand(config.task, config.data))
        for command in quickstart.trained_agents(config, Path(folder)):
            row = {"agent": command.agent.name, "devices": 1}
            yield measure_row(clock, _ROW_SECONDS, row, partial(_measure, command, steps))


def _measure(command: TrainCommand, steps: int) -> dict[str, Any]:
    data = training_data(command.task, command.data)
    learner = TransformerLearner(command, data, describe_agent(command, data))
    settings = replace(command.train, steps=_UNCOUNTED + steps)
    times: list[float] = []  # of logs, which wait for the device

    def run(state: Any, start: int, stop: int) -> Any:
        return fit(
            state,
            learner.train_step,
            prefetch(learner.make_batch, start, stop),
            replace(settings, log_every=stop - start),
            log=lambda *_: times.append(time.perf_counter()),
            save=lambda *_: None,
        )

    state = run(learner.init_state(), 0, _UNCOUNTED)
    start = time.perf_counter()
    state = run(state, _UNCOUNTED, _UNCOUNTED + steps)
    seconds = times[-1] - start
    batch = learner.make_batch(0)

    def step() -> Any:
        nonlocal state
        state, metrics = learner.train_step(state, batch)
        return metrics

    timings = time_in_turn({"step": step, "batch": partial(learner.make_batch, 1)})
    return {
        "training_steps_a_second": steps / seconds,
        "step_alone_ms": timings.row("step")["ms"],
        "making_a_batch_ms": timings.row("batch")["ms"],
        **_time_evaluations(command, state, data),
    }


def _time_evaluations(command: TrainCommand, state: Any, data: Any) -> dict[str, Any]:
    spec = describe_agent(command, data)
    tasks = evaluation_tasks(command.task, command.eval, command.seed)
    agent = TransformerAgent.from_trained(state.params, spec)
    of_tasks = evaluation_data(command.task, command.data, tasks)
    row: dict[str, Any] = {}
    for name in ("evaluation_seconds", "evaluation_again_seconds"):
        start, steps = time.perf_counter(), 0
        evaluation = Evaluation(agent, tasks, command.eval, of_tasks)
        for condition in evaluation.conditions():
            for attempt in evaluation.attempts(condition):
                evaluation.records(condition, attempt)
                steps += spec.steps
        row[name] = time.perf_counter() - start
    return row | {"attempted_steps": steps * len(tasks)}
