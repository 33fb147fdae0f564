"""Trains an agent: from data to checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from agentic_transformer.config import TrainCommand
from agentic_transformer.contexts.relabelled import RelabelledDataset
from agentic_transformer.contexts.training_data import training_data
from agentic_transformer.learners import find_learner, is_in_context, training_class
from agentic_transformer.models.spec import AgentSpec
from agentic_transformer.training import distributed
from agentic_transformer.training.checkpoint import Checkpoints
from agentic_transformer.training.computation import computation_line
from agentic_transformer.training.init_agent import InitialAgent, with_scales_of
from agentic_transformer.training.learned_data import describe_change, describe_episodes
from agentic_transformer.training.learner import Learner, check_devices
from agentic_transformer.training.literal_path import check_path
from agentic_transformer.training.loop import evaluation_due, fit, prefetch, profiled
from agentic_transformer.training.metrics import MetricsLog
from agentic_transformer.training.state import TrainState
from datasets.progress import progress_bar

Evaluate = Callable[[AgentSpec, Any], list[dict[str, float]]]
"""Evaluates an agent, given its spec and its parameters on the host; returns the rows of
`learning_curve.csv`, or none if it was told to stop."""


def train(
    config: TrainCommand,
    run: Path | str,
    should_stop: Callable[[], bool] = lambda: False,
    note: Callable[..., None] = lambda **facts: None,
    evaluate: Evaluate | None = None,
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
        evaluate: called in process 0 as `train.eval_every` says, for the learning curve; it changes
            nothing that is trained. `agentic_transformer.evaluation.learning_curve` has one.

    Returns:
        The trained state.

    Raises:
        ValueError: the settings do not fit the data or the devices, the folder holds checkpoints of
            another agent or of other data, the parameters of `init` are another agent's, or
            `train.eval_every` is set and there is no `evaluate`.
        FloatingPointError: the loss or another metric is not finite.
        OSError: a checkpoint cannot be written.
    """
    run = Path(run)
    check_path(run)
    if config.train.eval_every and evaluate is None:
        raise ValueError(
            f"train.eval_every={config.train.eval_every} needs a function that evaluates; "
            "agentic_transformer.train has one"
        )

    check_devices(config)

    # Data: trajectories under the rewards of the training tasks. Process 0 builds the cache.
    with distributed.first_process_first():
        data = training_data(config.task, config.data, config.agent.told, config.agent.imitate)

    ranked = find_learner(config.agent.learner).loss_ranks
    checkpoints = Checkpoints(run, config.train.keep, config.train.keep_best if ranked else 0)
    spec, learner, state = _first_state(config, run, data, checkpoints, note)
    start = int(state.step)

    # The loop: a thread makes the next batch while a step computes.
    train_step = profiled(learner.train_step, start, config.train.profile, run / "profile")
    batches = _with_progress(prefetch(learner.make_batch, start, config.train.steps), config, start)
    with _metrics_log(config, run, start, learner) as log, batches:

        def report(step: int, metrics: dict[str, float | None]) -> None:
            loss = metrics["loss"]
            shown = {} if loss is None else {"loss": f"{loss:.3f}"}
            if log:
                rate = float(learner.learning_rate(step - 1))
                metrics = log.write(step, metrics | {"learning_rate": rate})
                if tokens := metrics.get("tokens_per_second"):
                    shown["tokens/s"] = f"{tokens:,.0f}"
            batches.set_postfix(shown, refresh=False)

        def save(state: TrainState, loss: float) -> None:
            checkpoints.save(state, spec.to_dict(), loss)

        def measure(step: int, state: TrainState) -> None:
            params = distributed.on_host(state.params)
            if log and not log.has_returns(step):
                returns = evaluate(spec, params)
                log.write_returns(step, returns)
                batches.write(_returns_line(step, returns))

        stopping = should_stop()
        if evaluation_due(start, config.train) and not stopping:
            measure(start, state)
            stopping = should_stop()
        if not stopping:
            state = fit(
                state,
                train_step,
                batches,
                config.train,
                log=report,
                save=save,
                should_stop=should_stop,
                evaluate=measure,
            )
        checkpoints.close()
    return state


def _first_state(
    config: TrainCommand,
    run: Path,
    data: RelabelledDataset,
    checkpoints: Checkpoints,
    note: Callable[..., None],
) -> tuple[AgentSpec, Learner, TrainState]:
    """Loads the newest whole checkpoint of a run, or else makes the agent that it starts from.

    Arguments and errors are those of `train`.

    Returns:
        The agent, what trains it, and its state before the first step.
    """
    newest = checkpoints.prepare()
    if newest is not None and (change := describe_change(run, data.store)):
        raise ValueError(
            f"run={run} cannot be continued: {change}; allowed: the episodes that it was started "
            "with, or a new run"
        )
    initial = InitialAgent(config.init) if config.init and newest is None else None
    spec = describe_agent(config, data)
    if initial:
        initial.check(spec)
        spec = initial.scaled(spec)
    elif config.init:
        spec = with_scales_of(spec, AgentSpec.from_dict(checkpoints.spec(newest)))

    learner: Learner = training_class(config.agent.learner)(config, data, spec)
    if newest is None:
        state = learner.init_state()
    else:
        state = checkpoints.state(newest, learner.abstract_state(), spec.to_dict())
    if distributed.is_first():
        note(computation=learner.computation, **describe_episodes(data.store))
        print(computation_line(learner.computation), flush=True)
        if is_in_context(config.agent.learner):
            print(_trajectories_line(config), flush=True)
    if initial:
        state = state._replace(params=initial.params(learner.abstract_state().params))
        if distributed.is_first():
            note(init=initial.name)
    _print_start(config, checkpoints, newest)
    return spec, learner, state


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
        observation_size=data.observation_size,
        action_size=data.store.action_size,
        steps=int(data.store.lengths[0]),
        best_return=float(data.returns.max()),
        action_repeat=config.data.action_repeat,
        td3_bc=config.td3_bc,
        iql=config.iql,
        cql=config.cql,
        crr=config.crr,
    )


def _trajectories_line(config: TrainCommand) -> str:
    """Says how many trajectories a step learns from: agents with other rows are compared by it."""
    batch, trajectories = config.train.batch, config.agent.trajectories
    product = f"train.batch={batch} x agent.trajectories={trajectories}"
    return f"trajectories a step: {batch * trajectories:,} ({product})"


def _print_start(config: TrainCommand, checkpoints: Checkpoints, newest: int | None) -> None:
    """Says from which checkpoint training goes on, or that a resumed run found none."""
    if not distributed.is_first():
        return
    if newest is not None:
        print(f"goes on from checkpoint {newest}", flush=True)
    elif config.init:
        print(f"starts from the parameters of {config.init}", flush=True)
    elif config.resume:
        print(f"resume=true: no checkpoint in {checkpoints.folder}; starts at step 0", flush=True)


def _metrics_log(
    config: TrainCommand, run: Path, start: int, learner: Learner
) -> AbstractContextManager[MetricsLog | None]:
    """Returns the log of a run, which process 0 writes."""
    if not distributed.is_first():
        return nullcontext()
    settings = asdict(config) if config.logger == "wandb" else None
    return MetricsLog(run, start, learner.tokens_per_batch, settings)


def _returns_line(step: int, returns: list[dict[str, float]]) -> str:
    """Says what an evaluation found."""
    found = ", ".join(f"{row['return']:.2f} at n={row['trajectories']}" for row in returns)
    return f"step {step}: return {found}" if found else f"step {step}: evaluation was stopped"


def _with_progress(batches: Iterable[Any], config: TrainCommand, start: int) -> tqdm:
    """Returns the batches behind a progress bar, which process 0 shows."""
    return progress_bar(
        f"train {config.agent.name}",
        batches,
        unit="it",
        show=distributed.is_first(),
        total=config.train.steps,
        initial=start,
    )
