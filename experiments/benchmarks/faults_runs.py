"""Stops, kills and starves whole training runs, and compares what they come to."""

from __future__ import annotations

import csv
import hashlib
import operator
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

from agentic_transformer.run_files import CHECKPOINTS, METRICS
from agentic_transformer.training import checksums
from experiments.benchmarks.faults_check import FULL_DISK, KILL, SAME_SEED, STOP, Check
from experiments.cli import compilation_cache
from experiments.cli.packages import ROOT

COLD = {compilation_cache.VARIABLE: ""}
"""Environment of a run that compiles everything itself."""

_KILLS = 20
_PATIENCE = 300  # seconds
_ASCENDING = ["experiment=ascending", "data.episodes=200", "data.tasks=6"]
_SMALL = ["model.width=16", "model.layers=1", "train.batch=8"]


def signals(work: Path) -> Iterator[Check]:
    """Sends SIGTERM, SIGKILL and SIGTERM to a run, then lets it end.

    The run beside it is left alone, and takes no compiled program from another.

    Args:
        work: folder with the data of suite `faults`.
    """
    words = [*_SMALL, "train.steps=300", "train.checkpoint_every=50"]
    _finish(work, *words, "run=whole", **COLD)
    codes, slowest = [], 0.0
    for number, step in ((signal.SIGTERM, 50), (signal.SIGKILL, 150), (signal.SIGTERM, 200)):
        with started(work, *words, "run=signals", "resume=true") as process:
            wait_for_step(work / "signals", step, process)
            start = time.monotonic()
            process.send_signal(number)
            codes.append(process.wait(_PATIENCE))
            if number == signal.SIGTERM:
                slowest = max(slowest, time.monotonic() - start)
    codes.append(_finish(work, *words, "run=signals", "resume=true"))
    right = sum(code == expected for code, expected in zip(codes, (75, -9, 75, 0), strict=True))
    yield Check(STOP, "exit codes of SIGTERM, SIGKILL, SIGTERM, resume", right, 4)
    yield Check(STOP, "slowest end after SIGTERM", int(slowest <= 5), 1, slowest, "s", 5)
    same = _digest(work / "signals") == _digest(work / "whole")
    yield Check(STOP, "SIGTERM, SIGKILL, SIGTERM, resume: final state by hash", same, 1)


def kills(work: Path) -> Iterator[Check]:
    """Ends a run by SIGKILL at random moments and starts it again each time.

    Most kills come while the run steps and saves, some while it starts.

    Args:
        work: folder with the data of suite `faults`.
    """
    words = [*_SMALL, "train.steps=1200", "train.checkpoint_every=5", "train.log_every=50"]
    rng, run, went_on, killed = random.Random(0), work / "kills", 0, 0
    _finish(work, *words, "run=calm")
    for kill in range(_KILLS):
        whole = _newest_whole_step(run)
        while_starting = kill % 5 == 0
        with started(work, *words, "run=kills", "resume=true") as process:
            if while_starting:
                time.sleep(rng.uniform(1, 10))
            else:
                # Beyond a checkpoint too that the last kill left half-written.
                wait_for_step(run, max(_steps(run), default=0) + 5, process)
                time.sleep(rng.uniform(0, 0.7))
            process.kill()
            killed += process.wait(_PATIENCE) == -signal.SIGKILL
        resumed = re.findall(r"goes on from checkpoint (\d+)", (work / "said.txt").read_text())
        # A run that is killed while it starts may not come so far as to print the line.
        silent = not resumed and (whole == 0 or while_starting)
        went_on += resumed == [str(whole)] or silent
    what = "SIGKILL at a random moment: the next start went on from the newest whole step"
    yield Check(KILL, what, went_on, _KILLS)
    yield Check(KILL, "SIGKILL came before the end of training", killed, _KILLS)
    _finish(work, *words, "run=kills", "resume=true")
    same = _digest(run) == _digest(work / "calm")
    yield Check(KILL, f"{_KILLS} SIGKILLs: final state by hash", same, 1)
    left = [path for path in (run / CHECKPOINTS).iterdir() if "tmp" in path.name]
    yield Check(KILL, "no temporary folder is left behind", not left, 1)


def full_disk(work: Path) -> Iterator[Check]:
    """Fills a small disk with checkpoints, in a mount namespace of its own.

    Args:
        work: folder with the data of suite `faults`.
    """
    disk = work / "disk"
    disk.mkdir()
    settings = ["train.steps=300", "train.checkpoint_every=5", "train.keep=1000", "run=disk/run"]
    train = " ".join(_command_line(*_SMALL, *settings))
    load = (
        "from pathlib import Path; "
        "from agentic_transformer.agents.load import load; "
        "load(Path('disk/run'))"
    )
    # Exit code 98: the earlier checkpoints do not open.
    script = (
        f"mount -t tmpfs -o size=3m tmpfs disk && "
        f'{{ {train}; code=$?; {sys.executable} -c "{load}" && exit $code; }}; exit 98'
    )
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script],
        cwd=work,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    told = "could not be written" in done.stderr and "Traceback" not in done.stderr
    passed = told and done.returncode == 1
    yield Check(FULL_DISK, "reported with exit code 1, earlier checkpoints open", passed, 1)


def same_seed(work: Path) -> Iterator[Check]:
    """Trains twice with the same seed and compares the metrics row by row.

    Args:
        work: folder with the data of suite `faults`.
    """
    tables = []
    for name in ("one", "two"):
        _finish(work, *_SMALL, "train.steps=60", "train.log_every=1", f"run={name}")
        tables.append(timeless(work / name / METRICS))
    same = sum(map(operator.eq, *tables))
    yield Check(SAME_SEED, "rows of metrics alike but for the time", same, 60)


def timeless(path: Path) -> list[dict[str, str]]:
    """Returns the rows of a table of metrics as they are written, without times and rates."""
    with path.open(newline="") as file:
        return [
            {name: value for name, value in row.items() if not name.endswith(("second", "seconds"))}
            for row in csv.DictReader(file)
        ]


@contextmanager
def started(work: Path, *words: str, **environment: str) -> Iterator[subprocess.Popen]:
    """Starts a training run in a process of its own, and kills it when the block ends.

    What it prints goes to `said.txt`. The runs of a folder `work` share what they compile, as those
    of a user do.

    Args:
        work: folder to start in.
        *words: settings on the command line.
        **environment: more environment variables.
    """
    environment = (
        os.environ | {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(work / "cache")} | environment
    )
    with (work / "said.txt").open("w") as said:
        process = subprocess.Popen(
            _command_line(*words), cwd=work, env=environment, stdout=said, stderr=subprocess.DEVNULL
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_for_step(run: Path, step: int, process: subprocess.Popen) -> None:
    """Waits for a checkpoint of this step or a later one, or for the end of the process.

    Raises:
        TimeoutError: nothing came in five minutes.
    """
    end = time.monotonic() + _PATIENCE
    while process.poll() is None and not any(found >= step for found in _steps(run)):
        if time.monotonic() > end:
            raise TimeoutError(f"{run}: no checkpoint of step {step} after {_PATIENCE} s")
        time.sleep(0.02)


def _command_line(*words: str) -> list[str]:
    return [sys.executable, "-m", "experiments.train", *_ASCENDING, *words]


def _finish(work: Path, *words: str, **environment: str) -> int:
    """Runs training to its end and returns its exit code."""
    with started(work, *words, **environment) as process:
        return process.wait(_PATIENCE)


def _steps(run: Path) -> list[int]:
    """Returns the steps of a run's checkpoints, whole or not."""
    return sorted(int(path.name) for path in run.glob("checkpoints/*") if path.name.isdecimal())


def _newest_whole_step(run: Path) -> int:
    """Returns the newest step whose list of checksums is there, or 0."""
    folder = run / CHECKPOINTS
    whole = (step for step in _steps(run) if (folder / str(step) / checksums.SUMS_FILE).exists())
    return max(whole, default=0)


def _digest(run: Path) -> str:
    """Returns a digest of a run's last step, parameters and optimizer state."""
    step = run / CHECKPOINTS / str(_steps(run)[-1])
    digest = hashlib.sha256(step.name.encode())
    for item in ("params", "optimizer"):
        folder, arrays = (step / item).resolve(), ocp.PyTreeCheckpointHandler()
        as_numpy = jax.tree.map(
            lambda _: ocp.RestoreArgs(restore_type=np.ndarray), arrays.metadata(folder).tree
        )
        restored = arrays.restore(folder, args=ocp.args.PyTreeRestore(restore_args=as_numpy))
        for path, leaf in jax.tree_util.tree_leaves_with_path(restored):
            digest.update(jax.tree_util.keystr(path).encode() + leaf.tobytes())
    return digest.hexdigest()
