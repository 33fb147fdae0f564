"""Collects buffers, and measures how fast that is and how good their episodes are."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

import datasets
import envs
from datasets.episode import episode_path
from experiments.benchmarks.data_line import Line

_WHOLE = 200
"""Episodes of a buffer that must be good to learn from. Smaller ones show what planners reach."""

BUFFERS = {
    "cartpole_swingup": ("mppi", _WHOLE),
    "point_mass_maze_any": ("pd", _WHOLE),
    "walker_any": ("mppi", _WHOLE),
    "jaco_any": ("mppi", 20),
    "cheetah_any": ("mppi", 20),
    "quadruped_any": ("mppi", 20),
    "hopper_hop": ("mppi", 20),
}
"""Collector and episodes of each task's buffer."""

_CPU_SECONDS = 1800  # a quarter of an hour on two cores
_BEST_AT_LEAST = {
    "cartpole_swingup": 700,
    "walker_stand": 900,
    "walker_walk": 800,
    **{
        f"point_mass_maze_reach_{corner}": 400
        for corner in ("top_left", "top_right", "bottom_left", "bottom_right")
    },
    **{
        f"jaco_reach_{corner}": 150
        for corner in ("top_left", "top_right", "bottom_left", "bottom_right")
    },
}


def collect(
    root: Path, task: str, collector: str, episodes: int
) -> tuple[dict[tuple[str, str], np.ndarray], list[Line]]:
    """Collects what a buffer lacks, and measures it.

    Args:
        root: folder of all buffers.
        task: the task to collect for.
        collector: name of the collector.
        episodes: number of episodes.

    Returns:
        The returns that the environment pays for the episodes, for every task of the domain, by
        (buffer, task), and the measurements: the speed, if episodes were collected, and how good
        they are.
    """
    folder = datasets.buffer_folder(root, task, collector)
    length = envs.spec(task).length
    paths = [episode_path(folder, index, length) for index in range(episodes)]
    missing, start = sum(not path.exists() for path in paths), time.process_time()
    datasets.collect(task, folder, episodes=episodes, seed=0, collector=collector)
    rate = missing / (time.process_time() - start)
    store = datasets.Store(datasets.build_cache(folder))
    tasks = [
        name
        for name in envs.tasks()
        if envs.task(name).domain == envs.task(task).domain and name not in envs.families()
    ]
    store.relabel(tasks, "exact")
    buffer = f"{task} by {collector}"
    speed = Line(
        "collecting",
        f"{buffer}: episodes in {_CPU_SECONDS // 60} CPU minutes",
        rate * _CPU_SECONDS,
        "",
        _WHOLE,
    )
    returns = {(buffer, name): store.returns(name, "exact") for name in tasks}
    quality = _quality(returns, whole=episodes == _WHOLE)
    return returns, [*([speed] if missing else []), *quality]


def _quality(returns: dict[tuple[str, str], np.ndarray], whole: bool) -> list[Line]:
    """Measures how good the episodes of a buffer are; a whole one has shares to reach."""
    lines, shares = [], []
    for (_, task), values in returns.items():
        best = float(values.max())
        shares.append(float(np.mean(values >= best / 2)) if best > 0 else 0.0)
        counts, _ = np.histogram(values, bins=10, range=(0, max(best, 1e-9)))
        tenths = int(np.count_nonzero(counts))
        lines += [
            Line("collecting", f"{task}: best return", best, "", _BEST_AT_LEAST.get(task)),
            Line(
                "collecting",
                f"{task}: share of {len(values)} episodes above half of it",
                shares[-1],
                "",
            ),
            Line("collecting", f"{task}: tenths of the range up to it with episodes", tenths, ""),
        ]
    buffer = next(iter(returns))[0]
    second = sorted(shares)[-2]
    return (
        [
            *lines,
            Line("collecting", f"{buffer}: that share on the second best task", second, "", 0.05),
        ]
        if whole
        else lines
    )
