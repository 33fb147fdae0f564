"""Measures the rates of relabelling, stepping and sampling, against the ways they replace."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import h5py
import numpy as np

import datasets
import envs
from datasets.cache_writer import CacheWriter
from datasets.episode import episode_files, episode_path
from envs.domain import load_domain
from experiments.benchmarks import data_stepping
from experiments.benchmarks.data_line import Line
from experiments.cli.allocator import resident_bytes

_ROUNDS = 3
_SECONDS = 0.7  # CPU time of one measurement
_TRANSITIONS = 10_000_000  # of an ExoRL data set

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


def _rates(ways: dict[str, tuple[Callable[[], None], int]]) -> dict[str, float]:
    """Returns the items per CPU second of each way.

    Args:
        ways: for each name, what to call and the items that one call handles.
    """
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
    """Returns dm_control's own environment of a task.

    For a task that dm_control lacks, it is the environment of the same body with another task that
    costs as much.
    """
    domain = envs.task(task).domain
    return load_domain(domain).build(envs.task(task).behaviour)


def _relabelling() -> Iterator[Line]:
    """Measures relabelling against dm_control's own reward, state by state."""
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
                _TRANSITIONS / rate["ours"] / 60,
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
    """Measures batches of environments against one dm_control environment and bare `mj_step`."""
    for task, at_least in _STEP_AT_LEAST.items():
        rates = data_stepping.measure(task)
        yield from (
            Line("stepping", f"{task}: one dm_control environment", rates.dm_control, "1/s"),
            Line("stepping", f"{task}: make_vec of {data_stepping.STATES}", rates.make_vec, "1/s"),
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
    """Measures loading whole trajectories of walker's size, eight at a time, from warm files."""
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


def _fabricated(rng: np.random.Generator, rows: int) -> datasets.Episode:
    """Makes an episode of walker's size from random numbers."""

    def normal(size: int) -> np.ndarray:
        return rng.standard_normal((rows, size))

    action, reward = np.tanh(normal(6)), normal(1)
    action[0] = reward[0] = 0
    return datasets.Episode(normal(24), action, reward, np.ones((rows, 1)), normal(18))


def _memory() -> list[Line]:
    """Measures how this process grows while it samples a cache of 100,000 episodes."""
    episodes, rows = 100_000, 51
    with tempfile.TemporaryDirectory() as name:
        path, rng = Path(name) / "buffer.h5", np.random.default_rng(0)
        episode = _fabricated(rng, rows)
        files = [episode_path(Path(), index, rows - 1) for index in range(episodes)]
        with h5py.File(path, "w", libver="latest") as cache:
            writer = CacheWriter(cache, files)
            for file in files:
                writer.append(file.name, (0, 0), episode)
            writer.finish(None)
        store = datasets.Store(path, budget=0)
        for _ in range(50):
            store.load(rng.integers(episodes, size=32))
        before = resident_bytes()
        for _ in range(3000):
            store.load(rng.integers(episodes, size=32))
        grown = resident_bytes() - before
        size = path.stat().st_size
    return [
        Line("memory", f"cache of {episodes} episodes", size / 1e6, "MB"),
        Line("memory", "growth over 96,000 trajectories sampled from it", grown / 1e6, "MB"),
    ]


PARTS: dict[str, Callable[[], Iterable[Line]]] = {
    "relabelling": _relabelling,
    "stepping": _stepping,
    "sampling": _sampling,
    "memory": _memory,
}
"""All measurements of rates and memory."""
