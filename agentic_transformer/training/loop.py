"""Runs the training loop: prefetches batches, steps, logs, saves."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import jax

from agentic_transformer.config import TrainConfig
from agentic_transformer.contexts.tokens import Tokens
from agentic_transformer.training.step import TrainState, TrainStep


def profiled(train_step: TrainStep, start: int, steps: Collection[int], folder: Path) -> TrainStep:
    """A train step that writes a profiler trace of chosen steps to `<folder>/step_<number>`, for
    TensorBoard or Perfetto.

    Args:
        train_step: of `make_train_step`.
        start: the state's step before the first call.
        steps: numbers of the steps to trace; the first step of a process includes its compilation.
        folder: where the traces go.
    """
    numbers = count(start + 1)

    def step(state: TrainState, tokens: Tokens) -> tuple[TrainState, dict[str, jax.Array]]:
        number = next(numbers)
        if number not in steps:
            return train_step(state, tokens)
        jax.block_until_ready(state)
        with jax.profiler.trace(folder / f"step_{number}"):
            return jax.block_until_ready(train_step(state, tokens))

    return step


def prefetch(make: Callable[[int], Tokens], start: int, stop: int) -> Iterator[Tokens]:
    """`make(start)`, ..., `make(stop - 1)`, each made in a thread while the step before it
    computes.
    """
    with ThreadPoolExecutor(max_workers=1) as worker:
        pending = worker.submit(make, start)
        for step in range(start + 1, stop + 1):
            tokens = pending.result()
            if step < stop:
                pending = worker.submit(make, step)
            yield tokens


def fit(
    state: TrainState,
    train_step: TrainStep,
    batches: Iterable[Tokens],
    config: TrainConfig,
    log: Callable[[int, dict[str, float]], None],
    save: Callable[[TrainState, float], None],
    stop: Callable[[], bool] = lambda: False,
) -> TrainState:
    """Trains on batches, one step each, the last of which is step `config.steps`.

    Args:
        state: where to start.
        train_step: of `make_train_step`.
        batches: placed token rows of the steps after the state's.
        config: numbers of steps.
        log: receives the step and the mean of its metrics since the last call, every `log_every`
            steps and at the end.
        save: receives the state and its loss every `checkpoint_every` steps and at the end. The
            loss, by which the best is known, is the mean of the last `log_every` steps, infinite
            where fewer were made here: means of fewer scatter more.
        stop: asked after each step; once it is true, the state is saved and training ends.

    Returns:
        The trained state.

    Raises:
        FloatingPointError: the loss, or another metric, is not finite; nothing is saved from then
            on.
    """
    recent: list[dict[str, jax.Array]] = []
    losses: deque[jax.Array] = deque(maxlen=config.log_every)
    for step, tokens in enumerate(batches, int(state.step) + 1):
        state, metrics = train_step(state, tokens)
        recent.append(metrics)
        losses.append(metrics["loss"])
        if jax.process_count() > 1:
            # What processes ask each other in `stop` may overtake the step's own communication in
            # one of them, and then all wait.
            jax.block_until_ready(metrics)
        stopping = stop()
        due = stopping or step == config.steps or step % config.checkpoint_every == 0
        if due or step % config.log_every == 0:
            means = {name: sum(float(m[name]) for m in recent) / len(recent) for name in metrics}
            if broken := [
                f"{name} became {value}"
                for name, value in means.items()
                if not math.isfinite(value)
            ]:
                raise FloatingPointError(
                    f"{', '.join(broken)} between steps {step - len(recent) + 1} and {step}"
                )
            log(step, means)
            recent = []
        if due:
            save(
                state,
                sum(map(float, losses)) / len(losses) if len(losses) == losses.maxlen else math.inf,
            )
        if stopping:
            break
    return state
