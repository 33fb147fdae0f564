"""Suite `faults`: tries the promises of `docs/promises.md` on whole runs, and runs the tests that
hold them.

About half an hour. Writes `checks.csv`, one line as each check ends: what was tried, how often it
went well, of how many tries, and a figure where one is promised. The column `item` is the number of
the promise; a promise may take several checks.
"""

from __future__ import annotations

import csv
import hashlib
import os
import random
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

from agentic_transformer.training import checksums as manifest
from experiments.benchmarks import promises
from experiments.cli import allocator, compilation_cache
from experiments.cli.packages import ROOT

_KILLS = 20
_SAVES = 20
_RESUMPTIONS = 3
_COLD = {compilation_cache.VARIABLE: ""}  # for a run that compiles everything itself
_MINUTES = 10  # of training and evaluating in a loop
_PATIENCE = 300  # seconds
_QUICKSTART = ["experiment=quickstart", "data.episodes=200", "data.tasks=6"]
_SMALL = ["model.width=16", "model.layers=1", "train.batch=8"]


class Check(NamedTuple):
    """One line of the table."""

    item: str
    check: str
    went_well: int
    tries: int
    figure: float | None = None
    unit: str = ""
    at_most: float | None = None


def run(folder: Path) -> None:
    """Make all checks and write their table."""
    with (folder / "checks.csv").open("w", newline="", buffering=1) as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(Check._fields)
        for check in _checks():
            _say(check)
            writer.writerow(check._replace(went_well=int(check.went_well)))


def _checks() -> Iterator[Check]:
    with (
        tempfile.TemporaryDirectory() as name,
        ProcessPoolExecutor(1, get_context("spawn")) as aside,
    ):
        work = Path(name)
        _collected(work)
        for part in (_signals, _same_seed, _cost):
            yield from part(work)
        looped = aside.submit(_loop, work)  # beside what follows, none of which is timed
        for part in (_kills, _full_disk):
            yield from part(work)
        for promise in promises.read():
            yield _tests(promise)
        yield from looped.result()


def _say(check: Check) -> None:
    figure = "" if check.figure is None else f"   {check.figure:.3g} {check.unit}"
    limit = "" if check.at_most is None else f" (at most {check.at_most:g})"
    print(
        f"{check.item:>2}  {check.went_well:4} of {check.tries:4}  {check.check}{figure}{limit}",
        flush=True,
    )


def _tests(promise: promises.Promise) -> Check:
    """Runs the tests that hold a promise; those under tests/multidevice in a process of their own."""
    passed = tries = 0
    for many in (False, True):
        if tests := [test for test in promise.tests if ("multidevice" in test) == many]:
            line = [sys.executable, "-m", "pytest", "-q", *tests]
            done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True)
            found = re.findall(r"(\d+) (passed|failed|error)", done.stdout)
            counts = {word: int(number) for number, word in found}
            passed += counts.get("passed", 0)
            tries += max(sum(counts.values()), 1)
    return Check(str(promise.number), f"{promise.text} (tests)", passed, tries)


def _line(*words: str) -> list[str]:
    return [sys.executable, "-m", "experiments.train", *_QUICKSTART, *words]


@contextmanager
def _started(work: Path, *words: str, **environment: str) -> Iterator[subprocess.Popen]:
    """A run in a process of its own, which does not outlive the block; what it prints goes to
    `said.txt`.

    The runs of a folder `work` share what they compile, as those of a user do.
    """
    environment = (
        os.environ | {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(work / "cache")} | environment
    )
    with (work / "said.txt").open("w") as said:
        process = subprocess.Popen(
            _line(*words), cwd=work, env=environment, stdout=said, stderr=subprocess.DEVNULL
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _finish(work: Path, *words: str, **environment: str) -> int:
    with _started(work, *words, **environment) as process:
        return process.wait(_PATIENCE)


def _steps(run: Path) -> list[int]:
    return sorted(int(path.name) for path in run.glob("checkpoints/*") if path.name.isdecimal())


def _wait_for_step(run: Path, step: int, process: subprocess.Popen) -> None:
    """Until a checkpoint of this step or a later one is there, or the process has ended."""
    end = time.monotonic() + _PATIENCE
    while process.poll() is None and not any(found >= step for found in _steps(run)):
        if time.monotonic() > end:
            raise TimeoutError(f"{run}: no checkpoint of step {step} after {_PATIENCE} s")
        time.sleep(0.02)


def _hash(run: Path) -> str:
    """Of the parameters and optimiser state that a run has come to, and the step."""
    import jax
    import numpy as np
    import orbax.checkpoint as ocp

    step = run / "checkpoints" / str(_steps(run)[-1])
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


def _collected(work: Path) -> None:
    """Makes the data that all runs here share."""
    import datasets

    buffer = datasets.buffer_folder(work / "data", "point_mass_goal", "pd")
    datasets.collect(
        "point_mass_goal", buffer, episodes=200, seed=0, collector="pd", progress=False
    )


def _signals(work: Path) -> Iterator[Check]:
    """SIGTERM, SIGKILL, SIGTERM, to the end; beside a run that is left alone, and takes no compiled
    program from another.
    """
    words = [*_SMALL, "train.steps=300", "train.checkpoint_every=50"]
    _finish(work, *words, "run=whole", **_COLD)
    codes, slowest = [], 0.0
    for number, step in ((signal.SIGTERM, 50), (signal.SIGKILL, 150), (signal.SIGTERM, 200)):
        with _started(work, *words, "run=signals", "resume=true") as process:
            _wait_for_step(work / "signals", step, process)
            start = time.monotonic()
            process.send_signal(number)
            codes.append(process.wait(_PATIENCE))
            if number == signal.SIGTERM:
                slowest = max(slowest, time.monotonic() - start)
    codes.append(_finish(work, *words, "run=signals", "resume=true"))
    well = sum(code == expected for code, expected in zip(codes, (75, -9, 75, 0), strict=True))
    yield Check("1", "exit codes of SIGTERM, SIGKILL, SIGTERM, resume", well, 4)
    yield Check("1", "slowest end after SIGTERM", int(slowest <= 5), 1, slowest, "s", 5)
    yield Check(
        "1",
        "SIGTERM, SIGKILL, SIGTERM, resume: final state by hash",
        _hash(work / "signals") == _hash(work / "whole"),
        1,
    )


def _kills(work: Path) -> Iterator[Check]:
    """SIGKILL at random moments, most while the run steps and saves, some while it starts; each
    time it is started again.
    """
    words = [*_SMALL, "train.steps=400", "train.checkpoint_every=5", "train.log_every=50"]
    rng, run, went_on, killed = random.Random(0), work / "kills", 0, 0
    _finish(work, *words, "run=calm")
    for kill in range(_KILLS):
        before = max(
            (
                step
                for step in _steps(run)
                if (run / "checkpoints" / str(step) / manifest.NAME).exists()
            ),
            default=0,
        )
        with _started(work, *words, "run=kills", "resume=true") as process:
            if kill % 5:
                _wait_for_step(run, before + 5, process)
                time.sleep(rng.uniform(0, 0.7))
            else:
                time.sleep(rng.uniform(1, 10))
            process.kill()
            killed += process.wait(_PATIENCE) == -signal.SIGKILL
        said = re.findall(r"goes on from checkpoint (\d+)", (work / "said.txt").read_text())
        went_on += said == [str(before)] or (
            not said and (before == 0 or kill % 5 == 0)
        )  # the latter may not come so far
    yield Check(
        "2",
        "SIGKILL at a random moment: the next start went on from the newest whole step",
        went_on,
        _KILLS,
    )
    yield Check("2", "SIGKILL came before the end of training", killed, _KILLS)
    _finish(work, *words, "run=kills", "resume=true")
    yield Check(
        "2", f"{_KILLS} SIGKILLs: final state by hash", _hash(run) == _hash(work / "calm"), 1
    )
    left = [path for path in (run / "checkpoints").iterdir() if "tmp" in path.name]
    yield Check("2", "temporary folders left behind", not left, 1)


def _full_disk(work: Path) -> Iterator[Check]:
    """Checkpoints pile up on a small disk, in a mount namespace of its own."""
    disk = work / "disk"
    disk.mkdir()
    train = " ".join(
        _line(
            *_SMALL,
            "train.steps=300",
            "train.checkpoint_every=5",
            "train.keep=1000",
            "run=disk/run",
        )
    )
    load = "from pathlib import Path; from agentic_transformer.training.checkpoint import load_policy; load_policy(Path('disk/run'))"
    script = f'mount -t tmpfs -o size=3m tmpfs disk && {{ {train}; code=$?; {sys.executable} -c "{load}" && exit $code; }}; exit 98'
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script],
        cwd=work,
        env=environment,
        capture_output=True,
        text=True,
    )
    said = "could not be written" in done.stderr
    yield Check(
        "5",
        "full disk: reported with exit code 1, earlier checkpoints open",
        said and done.returncode == 1,
        1,
    )


def _same_seed(work: Path) -> Iterator[Check]:
    import pandas as pd

    tables = []
    for name in ("one", "two"):
        _finish(work, *_SMALL, "train.steps=60", "train.log_every=1", f"run={name}")
        tables.append(pd.read_csv(work / name / "metrics.csv").drop(columns="seconds"))
    same = (tables[0] == tables[1]).all(axis=1)
    yield Check(
        "18", "same seed twice: lines of metrics alike but for the time", int(same.sum()), 60
    )


def _cost(work: Path) -> Iterator[Check]:
    """What saving costs the quickstart, and how soon a resumed one steps; CPU time where others
    share the machine.
    """
    import jax

    from agentic_transformer.config import TrainCommand
    from agentic_transformer.training.checkpoint import Checkpoints
    from agentic_transformer.training.step import TrainState

    trained = _Training(work, TrainCommand())
    trained.steps(20)
    start = time.process_time()
    trained.steps(100)
    step = (time.process_time() - start) / 100
    checkpoints = Checkpoints(work / "cost")
    checkpoints.open()
    state = jax.tree.map(lambda x: x.copy(), trained.state)
    start = time.process_time()
    for number in range(1, _SAVES + 1):
        checkpoints.save(TrainState(state.step + number, *state[1:]), trained.description, 0.0)
        checkpoints.wait()
    save = (time.process_time() - start) / _SAVES
    checkpoints.close()
    share = 100 * _SAVES * save / (TrainCommand().train.steps * step)
    yield Check(
        "",
        f"{_SAVES} saves, as a share of the quickstart's training (CPU time)",
        int(share < 3),
        1,
        share,
        "%",
        3,
    )

    yield from _resumption(work)


def _resumption(work: Path) -> Iterator[Check]:
    """From the command to the first step it logs.

    Others may share the machine: of the clock, the quickest round counts.
    """
    words = ["train.log_every=1", "train.checkpoint_every=20", "run=resumed"]
    metrics = work / "resumed" / "metrics.csv"
    with _started(work, *words) as process:
        _wait_for_step(work / "resumed", 20, process)
    for how, environment in (("", {}), (" where nothing it compiled was kept", _COLD)):
        cpu, clock = [], []
        for _ in range(_RESUMPTIONS):
            metrics.unlink()
            start = time.monotonic()
            with _started(work, *words, "resume=true", **environment) as process:
                while process.poll() is None and not (
                    metrics.exists() and metrics.read_text().count("\n") > 1
                ):
                    time.sleep(0.02)
                clock.append(time.monotonic() - start)
                cpu.append(_cpu_seconds(process))
        what = f"a resumed run has made its first step{how}"
        yield Check(
            "",
            f"{what} (CPU time)",
            sum(seconds <= 15 for seconds in cpu),
            len(cpu),
            max(cpu),
            "s",
            15,
        )
        yield Check(
            "",
            f"{what} (by the clock, the quickest of {len(clock)})",
            int(min(clock) <= 15),
            1,
            min(clock),
            "s",
            15,
        )


def _cpu_seconds(process: subprocess.Popen) -> float:
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class _Training:
    """The quickstart's training on little data, step by step in this process."""

    def __init__(self, work: Path, command: object) -> None:
        from agentic_transformer.contexts.relabelled import ChainLoader
        from agentic_transformer.models.spec import AgentSpec
        from agentic_transformer.training import sharding as mesh
        from agentic_transformer.training.step import init_state, make_optimizer, make_train_step
        from experiments.cli.data import training_data

        data = training_data(
            command.task, replace(command.data, root=str(work / "data"), episodes=200, tasks=6)
        )
        scaling, length = data.scaling(command.agent.reward_scale), int(data.store.lengths[0])
        sizes = (
            data.store.observation_size,
            data.store.action_size,
            length,
            float(data.returns.max()),
        )
        self.description = AgentSpec(command.task, 0, command.agent, command.model, scaling, *sizes)
        self.loader = ChainLoader(
            data, command.agent, self.description.layout(), 0, command.train.batch
        )
        self.mesh, (optimizer, _) = mesh.make_mesh(1), make_optimizer(command.train)
        graph, self.state = init_state(lambda: self.description.build(0), optimizer, self.mesh)
        tokens = command.agent.trajectories * length
        self.step = make_train_step(graph, optimizer, command.model, self.mesh, tokens)
        self.number = 0

    def steps(self, count: int) -> None:
        import jax

        from agentic_transformer.training import sharding as mesh

        for _ in range(count):
            self.state, _ = self.step(
                self.state, mesh.shard_batch(self.loader(self.number), self.mesh, "zigzag")
            )
            self.number += 1
        jax.block_until_ready(self.state)


def _loop(work: Path) -> list[Check]:
    """Memory and open files of a process that trains, saves, loads and evaluates again and again,
    after the first minute.

    A save every 50 steps, ten times as often as by default. Memory is told from the median of the
    second minute to that of the
    last: tensorstore frees the buffer of 4 MB that it reads with a round or two late, of which 1 MB
        is resident.
    """
    allocator.return_freed()
    import numpy as np

    from agentic_transformer.config import AgentConfig, EvalConfig, ModelConfig, TrainCommand
    from agentic_transformer.evaluation.rollouts import Evaluation, evaluation_tasks
    from agentic_transformer.training.checkpoint import Checkpoints, load_policy

    command = TrainCommand(agent=AgentConfig(trajectories=4), model=ModelConfig(width=16, layers=1))
    trained, config = (
        _Training(work, command),
        EvalConfig(trajectories=[1, 2], tasks=4, conditions=["own"]),
    )
    tasks = evaluation_tasks(command.task, config, 0)
    held, start = [], time.monotonic()
    while time.monotonic() < start + 60 * _MINUTES:
        trained.steps(command.train.checkpoint_every // 10)
        checkpoints = Checkpoints(work / "loop")
        checkpoints.open()
        checkpoints.save(trained.state, trained.description, 0.0)
        checkpoints.close()
        evaluation = Evaluation(load_policy(work / "loop"), tasks, config)
        list(evaluation.attempts("own"))
        if not held:
            _renew_interned()
        allocator.trim()
        held.append(
            (time.monotonic() - start, _resident(), len(list(Path("/proc/self/fd").iterdir())))
        )
    seconds, memory, files = np.array(held).T
    second, last = (seconds > 60) & (seconds <= 120), seconds > seconds[-1] - 60
    memory, files = (
        np.median(those[last]) - np.median(those[second]) for those in (memory / 1e6, files)
    )
    rounds = f"{len(held)} rounds of training and evaluating in {_MINUTES} minutes, from the second minute to the last"
    return [
        Check("", f"{rounds}: growth of memory", int(memory <= 1), 1, memory, "MB", 1),
        Check("", f"{rounds}: growth of open files", int(files <= 0), 1, files, "files", 0),
    ]


def _renew_interned() -> None:
    """Has Python rebuild its table of interned strings now, and not at some round of its own
    choosing.

    tensorstore interns strings that die at once. Each uses up a slot of the table, and when none is
    left, it is rebuilt with room for three times what lives: here, from 4 MB to 8 MB, some two
    hundred rounds on, and never to more.
    """
    for number in range(2**18):
        sys.intern(f"dies at once {number}")


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
