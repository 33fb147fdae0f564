"""Suite `data`: relabelling, stepping, sampling and collecting, against the ways they replace.

Rates are CPU time (all threads), the best of several interleaved rounds, so that other load on the
machine does not tilt them. What a line must reach stands beside it. Buffers that are not there yet
are collected, which takes most of the suite's time and can be interrupted.
"""

from __future__ import annotations

import csv
import logging
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

_ROUNDS = 3
_SECONDS = 0.7  # CPU time of one measurement
_ROWS = 10_000_000  # transitions of an ExoRL data set

_RELABEL_AT_LEAST = {
    "walker_walk": 16,
    "cheetah_run": 20,
    "cartpole_swingup": 25,
    "quadruped_walk": 15,
    "jaco_reach_top_left": 100,
    "point_mass_maze_reach_top_left": 30,
    "hopper_hop": 15,
}
_STEP_AT_LEAST = {
    "cartpole_swingup": 4,
    "cheetah_run": 4,
    "point_mass_maze_reach_top_left": 4,
    "hopper_hop": 2,
    "walker_walk": 1.4,
    "quadruped_walk": 1.4,
    "jaco_reach_top_left": 1.4,
}
# episodes of a buffer that must be good to learn from; the others show what their planners reach
_WHOLE = 200
_BUFFERS = {  # task: collector, episodes
    "cartpole_swingup": ("mppi", _WHOLE),
    "point_mass_maze_any": ("pd", _WHOLE),
    "walker_any": ("mppi", _WHOLE),
    "jaco_any": ("mppi", 20),
    "cheetah_any": ("mppi", 20),
    "quadruped_any": ("mppi", 20),
    "hopper_hop": ("mppi", 20),
}
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


class Line(NamedTuple):
    """One measurement: its group, what was measured, the figure, its unit, and what it must reach
    (None: just reported).
    """

    group: str
    item: str
    value: float
    unit: str
    at_least: float | None = None


def run(folder: Path, root: Path = Path("data")) -> None:
    """Measure, print, and write `measurements.csv`, `returns.csv` and two figures to `folder`;
    buffers lie under `root`.
    """
    logging.getLogger("absl").setLevel(
        logging.ERROR
    )  # a warning for each model that dm_control compiles
    lines: list[Line] = []
    for measure in (_relabelling, _stepping, _sampling, _memory):
        for line in measure():
            _say(line)
            lines.append(line)
    returns = {}
    for task, (collector, episodes) in _BUFFERS.items():
        own, spent = _collected(root, task, collector, episodes)
        for line in [*spent, *_quality(own, whole=episodes == _WHOLE)]:
            _say(line)
            lines.append(line)
        returns |= own
    _write(folder / "measurements.csv", Line._fields, lines)
    rows = [
        (*key, index, round(float(value), 3))
        for key, values in returns.items()
        for index, value in enumerate(values)
    ]
    _write(folder / "returns.csv", ("buffer", "task", "episode", "return"), rows)
    plot(folder)


def _say(line: Line) -> None:
    verdict = (
        ""
        if line.at_least is None
        else f"  (at least {line.at_least:g}: {'yes' if line.value >= line.at_least else 'NO'})"
    )
    print(f"{line.group:12} {line.item:58} {line.value:10.4g} {line.unit}{verdict}", flush=True)


def _write(path: Path, header: tuple[str, ...], rows: list[tuple]) -> None:
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def _rates(ways: dict[str, tuple[Callable[[], None], int]]) -> dict[str, float]:
    """Items per CPU second of each way; a way is what to call and the items that one call handles."""
    best = dict.fromkeys(ways, 0.0)
    for _ in range(_ROUNDS):
        for name, (call, items) in ways.items():
            calls, start = 0, time.process_time()
            while time.process_time() - start < _SECONDS:
                call()
                calls += 1
            best[name] = max(best[name], calls * items / (time.process_time() - start))
    return best


def _dm_control(task: str) -> object:
    """dm_control's own environment of a task (for the tasks it lacks: of the same body, with one
    that costs as much).
    """
    from envs import registry
    from envs.domain import load_domain

    domain = registry.task(task).domain
    return load_domain(domain).build(registry.task(task).behaviour)


def _relabelling() -> Iterator[Line]:
    import datasets
    import envs

    for task, at_least in _RELABEL_AT_LEAST.items():
        environment = _dm_control(task)
        environments = envs.make_vec(task, 8)
        environments.reset(seed=0)
        rng = np.random.default_rng(0)
        shape = environments.action_space.shape
        states = np.concatenate(
            [environments.step(rng.uniform(-1, 1, shape))[4]["physics"] for _ in range(250)]
        )

        def reference(environment: object = environment, states: np.ndarray = states) -> None:
            physics = environment.physics
            for state in states[::10]:
                with physics.reset_context():
                    physics.set_state(state)
                environment.task.get_reward(physics)

        ways = {
            "reference": (reference, len(states[::10])),
            "ours": (lambda s=states, t=task: datasets.relabel(s, t), len(states)),
        }
        rate = _rates(ways)
        yield from (
            Line("relabelling", f"{task}: states by the reference's way", rate["reference"], "1/s"),
            Line("relabelling", f"{task}: states", rate["ours"], "1/s"),
            Line(
                "relabelling",
                f"{task}: minutes for 10 million transitions",
                _ROWS / rate["ours"] / 60,
                "min",
            ),
            Line(
                "relabelling",
                f"{task}: against the reference",
                rate["ours"] / rate["reference"],
                "x",
                at_least,
            ),
        )


def _stepping() -> Iterator[Line]:
    from experiments.benchmarks.data_stepping import STATES, measure

    for task, at_least in _STEP_AT_LEAST.items():
        rates = measure(task)
        yield from (
            Line("stepping", f"{task}: one dm_control environment", rates.dm_control, "1/s"),
            Line("stepping", f"{task}: make_vec of {STATES}", rates.make_vec, "1/s"),
            Line(
                "stepping",
                f"{task}: share of the raw mj_step rate",
                rates.make_vec / rates.mj_step,
                "",
            ),
            Line("stepping", f"{task}: largest difference after an episode", rates.difference, ""),
            Line(
                "stepping",
                f"{task}: against dm_control",
                rates.make_vec / rates.dm_control,
                "x",
                at_least,
            ),
        )


def _sampling() -> list[Line]:
    """Whole trajectories of walker's size, warm, eight at a time."""
    import datasets
    from datasets.episode import episode_files

    with tempfile.TemporaryDirectory() as name:
        folder, count, rows, rng = Path(name) / "buffer", 100, 1001, np.random.default_rng(0)
        folder.mkdir()
        for index in range(count):
            datasets.write_episode(folder, index, _fabricated(rng, rows))
        files = episode_files(folder)
        store = datasets.Store(datasets.build_cache(folder, progress=False), budget=0)
        memory = []
        for field, size in (("observation", 24), ("action", 6)):
            raw = np.lib.format.open_memmap(
                Path(name) / f"{field}.npy", "w+", np.float32, (count, rows, size)
            )
            raw[:] = rng.standard_normal(raw.shape)
            memory.append(np.load(Path(name) / f"{field}.npy", mmap_mode="r"))
        store.load(np.arange(count))

        def archives() -> None:
            for index in rng.integers(count, size=8):
                with np.load(files[index]) as episode:
                    [episode[key] for key in episode.files]

        ways = {
            "compressed npz": archives,
            "raw memory map": lambda: [raw[rng.integers(count, size=8)] for raw in memory],
            "the cache": lambda: store.load(rng.integers(count, size=8)),
        }
        rate = _rates({name: (call, 8) for name, call in ways.items()})
    return [
        *(
            Line("sampling", f"trajectories from {name}", value, "1/s")
            for name, value in rate.items()
        ),
        Line(
            "sampling",
            "the cache against compressed npz",
            rate["the cache"] / rate["compressed npz"],
            "x",
            20,
        ),
        Line(
            "sampling",
            "the cache against a raw memory map",
            rate["the cache"] / rate["raw memory map"],
            "x",
            0.35,
        ),
    ]


def _fabricated(rng: np.random.Generator, rows: int) -> object:
    import datasets

    def normal(size: int) -> np.ndarray:
        return rng.standard_normal((rows, size))

    action, reward = np.tanh(normal(6)), normal(1)
    action[0] = reward[0] = 0
    return datasets.Episode(normal(24), action, reward, np.ones((rows, 1)), normal(18))


def _memory() -> list[Line]:
    """Growth of this process while it samples a cache of 100,000 episodes, drawn from everywhere."""
    import h5py

    import datasets
    from datasets.cache_writer import CacheWriter

    episodes, rows = 100_000, 51
    with tempfile.TemporaryDirectory() as name:
        path, rng = Path(name) / "buffer.h5", np.random.default_rng(0)
        episode = _fabricated(rng, rows)
        files = [Path(f"episode_{index:06d}_{rows - 1}.npz") for index in range(episodes)]
        with h5py.File(path, "w", libver="latest") as cache:
            writer = CacheWriter(cache, files)
            for file in files:
                writer.append(file.name, (0, 0), episode)
            writer.finish(None)
        store = datasets.Store(path, budget=0)
        for _ in range(50):
            store.load(rng.integers(episodes, size=32))
        before = _resident()
        for _ in range(3000):
            store.load(rng.integers(episodes, size=32))
        grown = _resident() - before
        size = path.stat().st_size
    return [
        Line("memory", f"cache of {episodes} episodes", size / 1e6, "MB"),
        Line("memory", "growth over 96,000 trajectories sampled from it", grown / 1e6, "MB"),
    ]


def _resident() -> int:
    """Bytes of this process that are in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _collected(
    root: Path, task: str, collector: str, episodes: int
) -> tuple[dict[tuple[str, str], np.ndarray], list[Line]]:
    """Returns of a buffer's episodes for every task of its domain, by (buffer, task), and how long
    collecting took.
    """
    import datasets
    import envs

    folder = datasets.buffer_folder(root, task, collector)
    missing, start = episodes - len(list(folder.glob("episode_*.npz"))), time.process_time()
    datasets.collect(task, folder, episodes=episodes, seed=0, collector=collector)
    rate = missing / (time.process_time() - start)
    store = datasets.Store(datasets.build_cache(folder))
    tasks = [
        name
        for name in envs.tasks()
        if envs.task(name).domain == envs.task(task).domain and name not in envs.families()
    ]
    store.relabel(tasks)
    speed = Line(
        "collecting",
        f"{task} by {collector}: episodes in {_CPU_SECONDS // 60} CPU minutes",
        rate * _CPU_SECONDS,
        "",
        _WHOLE,
    )
    return {(f"{task} by {collector}", name): store.returns(name) for name in tasks}, [
        speed
    ] if missing else []


def _quality(returns: dict[tuple[str, str], np.ndarray], whole: bool) -> list[Line]:
    """How good the episodes of a buffer are; `whole` ones have shares to reach on two tasks."""
    lines, shares = [], []
    for (_, task), values in returns.items():
        best = float(values.max())
        shares.append(float(np.mean(values >= best / 2)) if best > 0 else 0.0)
        tenths = np.count_nonzero(np.histogram(values, bins=10, range=(0, max(best, 1e-9)))[0])
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


def plot(folder: Path) -> None:
    """Draw the figures from the two tables in `folder` alone."""
    import matplotlib

    matplotlib.use("agg")
    import pandas as pd

    _plot_speed(pd.read_csv(folder / "measurements.csv"), folder / "speed.png")
    _plot_returns(pd.read_csv(folder / "returns.csv"), folder / "returns.png")


def _plot_speed(table: object, path: Path) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(15, 4), layout="constrained")
    for axis, group in zip(axes, ("relabelling", "stepping", "sampling"), strict=True):
        own = table[(table.group == group) & (table.unit == "x")]
        labels = own["item"].str.replace(
            ": against the reference|: against dm_control", "", regex=True
        )
        axis.barh(labels, own["value"] - 1, left=1, color="tab:blue", label="measured")
        axis.axvline(1, color="black", linewidth=0.8)
        axis.plot(own["at_least"], range(len(own)), "k|", markersize=18, label="at least")
        axis.set(xlabel="times as fast, CPU time", title=group, xscale="log")
        axis.invert_yaxis()
    axes[0].legend()
    figure.savefig(path, dpi=100)


def _plot_returns(table: object, path: Path) -> None:
    import matplotlib.pyplot as plt

    groups = list(table.groupby("buffer", sort=False))
    columns = 4
    rows = -(-len(groups) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(4 * columns, 3 * rows), layout="constrained", squeeze=False
    )
    for axis, (buffer, own) in zip(axes.flat, groups, strict=False):
        bins = np.linspace(0, max(own["return"].max(), 1), 21)
        for task, episodes in own.groupby("task", sort=False):
            axis.hist(episodes["return"], bins=bins, histtype="step", label=task)
        axis.set(
            title=f"{buffer}, {own.episode.nunique()} episodes", xlabel="return", ylabel="episodes"
        )
        axis.legend(fontsize=6)
    for axis in axes.flat[len(groups) :]:
        axis.remove()
    figure.savefig(path, dpi=100)
