"""Trains an agent: from data to checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from tqdm import tqdm

from agentic_transformer.config import TrainCommand
from agentic_transformer.contexts.relabelled import RelabelledDataset
from agentic_transformer.contexts.training_data import training_data
from agentic_transformer.models.spec import AgentSpec
from agentic_transformer.training import distributed
from agentic_transformer.training.checkpoint import Checkpoints
from agentic_transformer.training.computation import computation_line
from agentic_transformer.training.learner import Learner, TransformerLearner
from agentic_transformer.training.literal_path import check_path
from agentic_transformer.training.loop import fit, prefetch, profiled
from agentic_transformer.training.metrics import MetricsLog
from agentic_transformer.training.state import TrainState
from agentic_transformer.training.td3_bc import TD3BCLearner

_LEARNERS = {"transformer": TransformerLearner, "td3_bc": TD3BCLearner}
"""Learners by the value of `agent.learner`."""


def train(
    config: TrainCommand,
    run: Path | str,
    should_stop: Callable[[], bool] = lambda: False,
    note: Callable[..., None] = lambda **facts: None,
) -> TrainState:
    """Trains an agent, and writes checkpoints, metrics and traces into the run's folder.

    If the folder holds checkpoints of the same agent, training goes on from the newest whole one,
    bit for bit. Several processes of one run call this function together.

    Args:
        config: all settings, see `agentic_transformer.config`.
        run: the run's folder.
        should_stop: asked before the first step and after each one. If it is true before the
            first step, nothing is trained or saved. If it is true after a step, the state is saved
            and training ends.
        note: receives facts about the data and the computation, as keyword arguments.

    Returns:
        The trained state.

    Raises:
        ValueError: the settings do not fit the data or the devices, or the folder holds checkpoints
            of another agent.
        FloatingPointError: the loss or another metric is not finite.
        OSError: a checkpoint cannot be written.
    """
    run = Path(run)
    check_path(run)

    # Data: trajectories under the rewards of the training tasks. Process 0 builds the cache.
    with distributed.first_process_first():
        data = training_data(config.task, config.data)
    if distributed.is_first():
        note(episodes=data.store.episodes)

    spec = describe_agent(config, data)
    learner: Learner = _LEARNERS[config.agent.learner](config, data, spec)
    if distributed.is_first():
        note(computation=learner.computation)
        print(computation_line(learner.computation), flush=True)

    # The train state: that of the newest whole checkpoint, or a fresh one.
    checkpoints = Checkpoints(run, config.train.keep, config.train.keep_best)
    newest = checkpoints.prepare()
    if newest is None:
        state = learner.init_state()
    else:
        state = checkpoints.state(newest, learner.abstract_state(), spec.to_dict())
    start = int(state.step)
    _print_start(config, checkpoints, newest)

    # The loop: a thread makes the next batch while a step computes.
    train_step = profiled(learner.train_step, start, config.train.profile, run / "profile")
    batches = _with_progress(prefetch(learner.make_batch, start, config.train.steps), config, start)
    with MetricsLog(run, start) if distributed.is_first() else nullcontext() as log, batches:

        def report(step: int, metrics: dict[str, float]) -> None:
            if log:
                log.write(step, metrics | {"learning_rate": float(learner.learning_rate(step))})
            batches.set_postfix(loss=f"{metrics['loss']:.3f}", refresh=False)

        def save(state: TrainState, loss: float) -> None:
            checkpoints.save(state, spec.to_dict(), loss)

        if not should_stop():
            state = fit(state, train_step, batches, config.train, report, save, should_stop)
        checkpoints.close()
    return state


def describe_agent(config: TrainCommand, data: RelabelledDataset) -> AgentSpec:
    """Returns the spec of the agent that the settings and the data make.

    Args:
        config: all settings.
        data: trajectories and rewards; they give sizes and scales.
    """
    return AgentSpec(
        task=config.task,
        seed=config.seed,
        agent=config.agent,
        model=config.model,
        normalizer=data.normalizer(config.agent.reward_scale),
        observation_size=data.store.observation_size,
        action_size=data.store.action_size,
        steps=int(data.store.lengths[0]),
        best_return=float(data.returns.max()),
        action_repeat=config.data.action_repeat,
        td3_bc=config.td3_bc,
    )


def _print_start(config: TrainCommand, checkpoints: Checkpoints, newest: int | None) -> None:
    """Says from which checkpoint training goes on, or that a resumed run found none."""
    if not distributed.is_first():
        return
    if newest is not None:
        print(f"goes on from checkpoint {newest}", flush=True)
    elif config.resume:
        print(f"resume=true: no checkpoint in {checkpoints.folder}; starts at step 0", flush=True)


def _with_progress(batches: Iterable[Any], config: TrainCommand, start: int) -> tqdm:
    """Returns the batches behind a progress bar, which process 0 shows."""
    return tqdm(
        batches,
        f"train {config.agent.name}",
        config.train.steps,
        initial=start,
        disable=not distributed.is_first(),
    )
