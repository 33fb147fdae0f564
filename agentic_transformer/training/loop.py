"""Runs training steps: prefetches batches, traces chosen steps, logs and saves."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import jax

from agentic_transformer.config import TrainConfig
from agentic_transformer.errors import listing, raise_config_error
from agentic_transformer.training.state import TrainState
from agentic_transformer.training.step import WEIGHT, Metrics, TrainStep

Batch = TypeVar("Batch")


def profiled(train_step: TrainStep, start: int, steps: Collection[int], folder: Path) -> TrainStep:
    """Returns a train step that writes a profiler trace of chosen steps.

    The traces lie in `<folder>/step_<number>`, and those of process 1 in `<folder>/process_1`: jax
    names them by the host alone. TensorBoard and Perfetto show them.

    Args:
        train_step: the step to trace.
        start: the state's step before the first call.
        steps: numbers of the steps to trace. The first step of a process includes its compilation.
        folder: where the traces go.
    """
    numbers = count(start + 1)
    if index := jax.process_index():
        folder = folder / f"process_{index}"

    def traced_step(state: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
        number = next(numbers)
        if number not in steps:
            return train_step(state, batch)
        # Steps are dispatched asynchronously: the trace must hold this one alone, and all of it.
        jax.block_until_ready(state)
        with jax.profiler.trace(folder / f"step_{number}"):
            return jax.block_until_ready(train_step(state, batch))

    return traced_step


def prefetch(make: Callable[[int], Batch], start: int, stop: int) -> Iterator[Batch]:
    """Yields `make(start)`, ..., `make(stop - 1)`.

    A thread makes each batch while the step before it computes.
    """
    with ThreadPoolExecutor(max_workers=1) as worker:
        pending = worker.submit(make, start)
        for step in range(start, stop):
            batch = pending.result()
            if step + 1 < stop:
                pending = worker.submit(make, step + 1)
            yield batch


def fit(
    state: TrainState,
    train_step: TrainStep,
    batches: Iterable[Any],
    config: TrainConfig,
    log: Callable[[int, dict[str, float | None]], None],
    save: Callable[[TrainState, float], None],
    should_stop: Callable[[], bool] = lambda: False,
    evaluate: Callable[[int, TrainState], None] = lambda step, state: None,
) -> TrainState:
    """Trains one step for each batch until `batches` ends or `should_stop` is true.

    `batches` should end at step `config.steps`.

    Args:
        state: where to start.
        train_step: see `agentic_transformer.training.step.make_train_step`.
        batches: batches of the steps after the state's.
        config: numbers of steps.
        log: receives the step and the mean of its metrics since the last call, every `log_every`
            steps, before each evaluation and each save, and at the end. The metric `<name> weight`
            holds the weights of steps in the mean of `<name>`; the mean is None if all are 0.
        save: receives the state and its loss every `checkpoint_every` steps and at the end. The
            loss is the mean of the last `log_every` steps. It is infinity if all their weights are
            0, or if this call made fewer steps: a mean of few is too noisy to compare checkpoints
            by.
        should_stop: asked after each step and each evaluation. Once it is true, the state is saved
            and training ends.
        evaluate: receives the step and the state, where `evaluation_due` says so. It must neither
            change nor keep the state.

    Returns:
        The trained state.

    Raises:
        UserError: the metrics of a step lack the loss, or their names are not those of the step
            before.
        FloatingPointError: the loss or another metric is not finite; nothing is saved from then on.
    """
    names: set[str] = set()
    recent: list[Metrics] = []  # since the last call of `log`
    losses: deque[Metrics] = deque(maxlen=config.log_every)
    alone_in_flight = _alone_in_flight()
    for step, batch in enumerate(batches, int(state.step) + 1):
        state, metrics = train_step(state, batch)
        names = names or set(metrics)
        if "loss" not in names or names != set(metrics):
            raise_config_error(
                f"step {step} of the learner has the metrics {listing(metrics) or '(none)'}",
                "the same in each step, one of them loss",
            )
        recent.append(metrics)
        losses.append({name: metrics[name] for name in names & {"loss", f"loss{WEIGHT}"}})
        if alone_in_flight:
            jax.block_until_ready(metrics)
        stopping = should_stop()
        save_due = stopping or step == config.steps or step % config.checkpoint_every == 0
        evaluate_now = evaluation_due(step, config) and not stopping
        if save_due or evaluate_now or step % config.log_every == 0:
            # Reading metrics waits for the device. Between two logs Python runs ahead of it.
            log(step, _finite_means(recent, step))
            recent = []
        if evaluate_now:
            evaluate(step, state)
            stopping = should_stop()
        if save_due or stopping:
            mean = _mean("loss", jax.device_get(list(losses)))
            enough = len(losses) == losses.maxlen and mean is not None
            save(state, mean if enough else math.inf)
        if stopping:
            break
    return state


def _alone_in_flight() -> bool:
    """Returns whether each step must end before anything else is started."""
    # should_stop communicates between processes. If that and the communication of a step ran in
    # different orders, all processes would hang.
    several_processes = jax.process_count() > 1
    # XLA runs programs of virtual devices on the threads of few cores. Those of steps that were
    # started ahead would wait for each other, and XLA would abort.
    virtual_devices = jax.default_backend() == "cpu" and jax.device_count() > 1
    return several_processes or virtual_devices


def evaluation_due(step: int, config: TrainConfig) -> bool:
    """Returns whether the agent is evaluated after a step; at step 0 it is untrained."""
    every = config.eval_every
    return bool(every) and (step % every == 0 or step == config.steps)


def _finite_means(recent: list[Metrics], step: int) -> dict[str, float | None]:
    """Returns the mean of each metric over the last steps, up to `step`, see `_mean`.

    Raises:
        FloatingPointError: a mean is not finite.
    """
    values = jax.device_get(recent)  # at once: a number alone would wait for the device each time
    means = {name: _mean(name, values) for name in values[-1] if not name.endswith(WEIGHT)}
    broken = [
        f"{name} became {mean}"
        for name, mean in means.items()
        if mean is not None and not math.isfinite(mean)
    ]
    if broken:
        raise FloatingPointError(
            f"{', '.join(broken)} between steps {step - len(recent) + 1} and {step}"
        )
    return means


def _mean(name: str, steps: Sequence[dict[str, Any]]) -> float | None:
    """Returns the mean of a metric over steps by their weights, or None if all of these are 0."""
    weights = [float(each.get(f"{name}{WEIGHT}", 1.0)) for each in steps]
    total = sum(float(each[name]) * weight for each, weight in zip(steps, weights, strict=True))
    if any(weights):
        return total / sum(weights)
    return None if math.isfinite(total) else total  # a number that is not finite is reported
