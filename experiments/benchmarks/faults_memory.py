"""Measures the growth of a process that trains, saves, loads and evaluates again and again."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from agentic_transformer.config import AgentConfig, EvalConfig, ModelConfig, TrainCommand
from experiments.benchmarks.faults_check import Check, limited
from experiments.cli import allocator

_MINUTES = 10


def growth(work: Path) -> list[Check]:
    """Measures the growth of memory and of open files, in a process of its own.

    A checkpoint is saved every 50 steps, ten times as often as by default. Growth is the median of
    the last minute minus that of the second minute: tensorstore frees the buffer of 4 MB that it
    reads with a round or two late, of which 1 MB is resident.

    Args:
        work: folder with the data of suite `faults`.
    """
    allocator.return_freed()
    # Imported here: numpy and jax start threads, and the allocator is set before there are any.
    import numpy as np

    # These import them, too.
    from agentic_transformer.agents.load import load
    from agentic_transformer.evaluation.conditions import evaluation_tasks
    from agentic_transformer.evaluation.rollouts import Evaluation
    from agentic_transformer.training.checkpoint import Checkpoints
    from experiments.benchmarks.faults_training import Training

    command = TrainCommand(agent=AgentConfig(trajectories=4), model=ModelConfig(width=16, layers=1))
    training = Training(work, command)
    config = EvalConfig(trajectories=[1, 2], tasks=4, conditions=["own"])
    tasks = evaluation_tasks(command.task, config, 0)
    rounds, start = [], time.monotonic()
    while time.monotonic() < start + 60 * _MINUTES:
        training.run(command.train.checkpoint_every // 10)
        checkpoints = Checkpoints(work / "loop")
        checkpoints.prepare()
        checkpoints.save(training.state, training.spec.to_dict(), 0.0)
        checkpoints.close()
        evaluation = Evaluation(load(work / "loop"), tasks, config)
        list(evaluation.attempts("own"))
        if not rounds:
            _renew_interned_strings()
        allocator.trim()
        open_files = len(list(Path("/proc/self/fd").iterdir()))
        rounds.append((time.monotonic() - start, allocator.resident_bytes(), open_files))
    seconds, memory, files = np.array(rounds).T
    second, last = (seconds > 60) & (seconds <= 120), seconds > seconds[-1] - 60
    grown_memory, grown_files = (
        np.median(values[last]) - np.median(values[second]) for values in (memory / 1e6, files)
    )
    what = (
        f"{len(rounds)} rounds of training and evaluating in {_MINUTES} minutes, "
        "from the second minute to the last"
    )
    return [
        limited(f"{what}: growth of memory", grown_memory, "MB", 1),
        limited(f"{what}: growth of open files", grown_files, "files", 0),
    ]


def _renew_interned_strings() -> None:
    """Makes Python rebuild its table of interned strings now, and not at a later round.

    tensorstore interns strings that die at once. Each uses up a slot of the table. When no slot is
    left, the table is rebuilt with room for three times what lives: here it grows from 4 MB to 8 MB
    after some two hundred rounds, and never more.
    """
    for number in range(2**18):
        sys.intern(f"dies at once {number}")
