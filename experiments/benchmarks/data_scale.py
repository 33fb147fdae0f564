"""Measures the start of training with hundreds of hidden tasks on a large buffer (data_scale).

The buffer has the size of one of ExoRL's walker sets, 10,000 episodes of 1,000 steps. Its states
are made up, and its episodes exist in the cache alone. Training starts twice: the first time it
computes what the rewards follow from, the second time it finds that beside the cache. A start shall
take at most 2 minutes and 4 GB.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np

import datasets
from datasets.cache import cache_path
from datasets.cache_writer import CacheWriter
from datasets.episode import episode_path
from experiments.benchmarks.data_line import Line, shown, write

_EPISODES, _LENGTH, _TASKS = 10_000, 1000, 300
_DIFFERENT = 50
"""Episodes of random numbers, which are written again and again."""


def run(folder: Path) -> None:
    """Measures two starts, and writes `measurements.csv`.

    Args:
        folder: for the results. The buffer is made in a temporary folder: TMPDIR says where, and it
            takes 3 GB there.
    """
    lines = []
    with tempfile.TemporaryDirectory() as name:
        buffer = datasets.buffer_folder(Path(name), "walker_speed", "made_up")
        make_buffer(buffer, _EPISODES, _LENGTH)
        for start in ("first", "second"):
            lines += shown(_measure_start(Path(name), start))
        kept = sum(
            path.stat().st_size for path in buffer.parent.glob(f"{buffer.name}.rewards_*/*.h5")
        )
        lines.append(Line("scale", f"kept on disk for {_TASKS} tasks", kept / 1e6, "MB"))
    write(folder / "measurements.csv", Line._fields, lines)


def make_buffer(buffer: Path, episodes: int, length: int) -> None:
    """Writes the cache of made-up walker episodes, and an empty file for each.

    The cache describes the empty files, so that it counts as up to date.

    Args:
        buffer: the folder of the files.
        episodes: how many.
        length: of each, in steps.
    """
    buffer.mkdir(parents=True)
    files = [episode_path(buffer, index, length) for index in range(episodes)]
    rng = np.random.default_rng(0)
    different = [_episode(rng, length + 1) for _ in range(min(episodes, _DIFFERENT))]
    with h5py.File(cache_path(buffer), "w", libver="latest") as cache:
        writer = CacheWriter(cache, files)
        for index, file in enumerate(files):
            file.touch()
            status = file.stat()
            stamp = status.st_size, status.st_mtime_ns
            writer.append(file.name, stamp, different[index % len(different)])
        writer.finish("walker")


def _episode(rng: np.random.Generator, rows: int) -> datasets.Episode:
    """Makes an episode of walker's size whose bodies stand about, at speeds of a few m/s."""
    physics = 0.3 * rng.standard_normal((rows, 18))
    physics[:, 9] = rng.uniform(-2, 4)  # the horizontal velocity of the torso
    action = rng.uniform(-1, 1, (rows, 6))
    action[0] = 0
    return datasets.Episode(
        observation=rng.standard_normal((rows, 24)).astype(np.float32),
        action=action.astype(np.float32),
        reward=np.zeros((rows, 1), np.float32),
        discount=np.ones((rows, 1), np.float32),
        physics=physics,
    )


def _measure_start(root: Path, start: str) -> list[Line]:
    """Trains two steps in a process of its own, and returns its time and its largest memory."""
    words = [
        "experiment=walker_speed",
        f"run={root / start}",
        f"data.root={root}",
        "data.algo=made_up",
        f"data.episodes={_EPISODES}",
        f"data.tasks={_TASKS}",
        "data.length=null",
        "data.horizon=null",  # all steps of every episode
        "agent.imitate=taken",  # nobody demonstrated the made-up actions
        "train.steps=2",
    ]
    began = time.monotonic()
    command = [sys.executable, "-m", "experiments.train", *words]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - began
    if status:
        raise RuntimeError(f"training failed with status {status}: {' '.join(command)}")
    what = f"{start} start with {_TASKS} tasks"
    return [
        Line("scale", f"{what}: seconds to the second step", seconds, "s"),
        Line("scale", f"{what}: CPU time", usage.ru_utime + usage.ru_stime, "s"),
        Line("scale", f"{what}: peak memory", usage.ru_maxrss * 1024 / 1e9, "GB"),
    ]
