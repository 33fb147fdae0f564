"""Measures what saving costs the quickstart, and how soon a resumed run makes its first step.

CPU time is measured if others may share the machine.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import jax

from agentic_transformer.config import TrainCommand
from agentic_transformer.training.checkpoint import Checkpoints
from agentic_transformer.training.state import TrainState
from experiments.benchmarks.faults_check import Check, limited
from experiments.benchmarks.faults_runs import COLD, started, wait_for_step
from experiments.benchmarks.faults_training import Training

_SAVES = 20
_TIMED_STEPS = 100
_RESUMPTIONS = 3
_FIRST_STEP_SECONDS = 15


def cost(work: Path) -> Iterator[Check]:
    """Measures saving, then resuming.

    Args:
        work: folder with the data of suite `faults`.
    """
    yield _saving(work)
    yield from _resuming(work)


def _saving(work: Path) -> Check:
    """Measures 20 saves as a share of the quickstart's training."""
    training = Training(work, TrainCommand())
    training.run(20)  # the first step compiles
    start = time.process_time()
    training.run(_TIMED_STEPS)
    step_seconds = (time.process_time() - start) / _TIMED_STEPS
    checkpoints = Checkpoints(work / "cost")
    checkpoints.prepare()
    state = jax.tree.map(lambda x: x.copy(), training.state)
    start = time.process_time()
    for number in range(1, _SAVES + 1):
        checkpoints.save(TrainState(state.step + number, *state[1:]), training.spec.to_dict(), 0.0)
        checkpoints.wait()
    save_seconds = (time.process_time() - start) / _SAVES
    checkpoints.close()
    share = 100 * _SAVES * save_seconds / (TrainCommand().train.steps * step_seconds)
    what = f"{_SAVES} saves, as a share of the quickstart's training (CPU time)"
    return limited(what, share, "%", 3)


def _resuming(work: Path) -> Iterator[Check]:
    """Measures the time from the command to the first step that it logs.

    Others may share the machine: of wall time, the quickest round counts.
    """
    words = ["train.log_every=1", "train.checkpoint_every=20", "run=resumed"]
    metrics = work / "resumed" / "metrics.csv"
    with started(work, *words) as process:
        wait_for_step(work / "resumed", 20, process)
    for how, environment in (("", {}), (" where nothing it compiled was kept", COLD)):
        cpu, wall = [], []
        for _ in range(_RESUMPTIONS):
            metrics.unlink()
            start = time.monotonic()
            with started(work, *words, "resume=true", **environment) as process:
                while process.poll() is None and not _has_row(metrics):
                    time.sleep(0.02)
                wall.append(time.monotonic() - start)
                cpu.append(_cpu_seconds(process))
        what = f"a resumed run has made its first step{how}"
        passed = sum(seconds <= _FIRST_STEP_SECONDS for seconds in cpu)
        limit = (max(cpu), "s", _FIRST_STEP_SECONDS)
        yield Check("", f"{what} (CPU time)", passed, len(cpu), *limit)
        by_clock = f"{what} (by the clock, the quickest of {len(wall)})"
        yield limited(by_clock, min(wall), "s", _FIRST_STEP_SECONDS)


def _has_row(metrics: Path) -> bool:
    """Returns whether a table has a row below its header."""
    return metrics.exists() and metrics.read_text().count("\n") > 1


def _cpu_seconds(process: subprocess.Popen) -> float:
    """Returns the CPU seconds of a running process, user and system (fields 14, 15 of stat)."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
