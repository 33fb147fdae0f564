"""Converts a buffer of episodes to a Minari dataset on this disk, and back.

Minari (Farama) keeps a dataset in a folder:

    data/metadata.json    its id, numbers of episodes and steps, spaces, version of the format;
                          and, under a key of ours, of which task and collector the episodes are
    data/main_data.hdf5   a group `episode_<i>` for each episode: observations (T + 1, O),
                          actions (T, A), rewards (T,), terminations (T,), truncations (T,), and
                          `infos`, here with physics and what collectors store besides: the
                          demonstrator's actions, the task's parameters, the scale of noise
                          (T + 1, size)

This module reads and writes the format with h5py. The package `minari` is not needed for these few
arrays, and would bring a command-line library and pictures. Actions have the environment's own
range in a Minari dataset, and lie within [-1, 1] in a buffer.

Source of the format: minari 0.5.4, which reads what is written here (tests/datasets/test_minari).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from tqdm import tqdm

from datasets.collection_metadata import read_origin, read_versions, write_metadata
from datasets.consistency import check_consistent, domain_of
from datasets.episode import (
    COLLECTED,
    Episode,
    check_arrays,
    episode_files,
    read_episode,
    write_episode,
)
from datasets.hdf5_files import new_hdf5, reserve
from datasets.new_file import named_errors
from datasets.new_folder import new_folder
from datasets.progress import progress_bar
from envs.gymnasium_tasks import bounds, environment_json, is_gymnasium
from envs.registry import domain_spec

_DATA, _METADATA, _ARRAYS = "data", "metadata.json", "main_data.hdf5"
_VERSION = "0.5.0"  # of Minari's format: a reader accepts those it knows, and all know this one
_ID = re.compile(r"(?:[-\w][-\w/]*/)?[-\w]+-v\d+")  # namespace/name-v0
_INFOS = ("physics", *COLLECTED)
# What a buffer's record says of its collection, kept under this key of Minari's metadata.
_COLLECTION = "collection"
_KEPT = ("task", "collector", "seed", "length", "action_repeat", "settings")
_GROUP_BYTES = 1 << 16  # HDF5's own structures for a group of a few arrays


def export_minari(
    buffer: str | Path, folder: str | Path, domain: str | None = None, *, progress: bool = True
) -> int:
    """Writes the episodes of a buffer as a Minari dataset.

    A line says so if no episode has a reward.

    Args:
        buffer: a folder of episodes.
        folder: of the dataset, new. Below Minari's own folder (MINARI_DATASETS_PATH, or
            ~/.minari/datasets) `minari.load_dataset` finds it by its path there.
        domain: whose data the episodes are. None takes what `<domain>/<algo>/buffer` names.
        progress: show a progress bar.

    Returns:
        the number of episodes.

    Raises:
        ValueError: a bad episode, or one with several columns of rewards; an unknown domain; or a
            folder that is there already or is not named as Minari names datasets.
        OSError: the dataset cannot be written, and nothing of it is left.
    """
    domain, folder = _known_domain(buffer, domain), Path(folder)
    identifier = _dataset_id(folder)
    if folder.exists():
        raise ValueError(f"{folder}: is there already; allowed: a new folder")
    files, low, high = episode_files(buffer), *_action_range(domain)
    first, origin = read_episode(files[0]), read_origin(Path(buffer))
    collection = {key: origin[key] for key in _KEPT if key in origin}
    limits = bounds(domain)[:2] if is_gymnasium(domain) else _unbounded(first.observation.shape[1])
    metadata = {
        "dataset_id": identifier,
        "minari_version": _VERSION,
        "data_format": "hdf5",
        "jpeg_encoding": False,
        "total_episodes": len(files),
        "observation_space": _box(*limits, "float32"),
        "action_space": _box(low, high, "float32"),
        "author": [],
        "author_email": [],
        "description": _description(domain, collection),
        "requirements": [f"{key}=={value}" for key, value in read_versions(Path(buffer)).items()],
    }
    if collection:
        metadata[_COLLECTION] = collection
    if is_gymnasium(domain) and (described := environment_json(domain)):
        metadata["env_spec"] = described
    with named_errors(folder), new_folder(folder) as partial:
        data = partial / _DATA
        data.mkdir()
        metadata["total_steps"], paid = _write_arrays(data / _ARRAYS, files, domain, progress)
        (data / _METADATA).write_text(json.dumps(metadata))
    if not paid:
        tqdm.write(f"{folder}: all rewards are 0, as in the episodes of {buffer}")
    return len(files)


def import_minari(
    folder: str | Path, buffer: str | Path, domain: str | None = None, *, progress: bool = True
) -> int:
    """Writes the episodes of a Minari dataset into a new buffer.

    Args:
        folder: of the dataset.
        buffer: a new folder.
        domain: whose data the episodes are, such as `gymnasium:HalfCheetah-v5`. None takes what
            `<domain>/<algo>/buffer` names.
        progress: show a progress bar.

    Returns:
        the number of episodes.

    Raises:
        ValueError: no such dataset; one without episodes, not of vectors or not in HDF5; an episode
            that ends by termination, or that the domain cannot have produced; or a buffer that is
            not empty.
    """
    domain, buffer = _known_domain(buffer, domain), Path(buffer)
    data = Path(folder) / _DATA
    if buffer.exists() and any(buffer.iterdir()):
        raise ValueError(f"buffer {buffer}: is not empty; allowed: a new folder")
    try:
        metadata = _read_metadata(data)
        low, high = _given_range(data, metadata)
        count = metadata["total_episodes"]
    except (AttributeError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{data / _METADATA}: is not what Minari writes ({error!r})") from error
    if type(count) is not int or count < 1:  # no bool either
        allowed = "a whole number, 1 or more"
        raise ValueError(f"{data}: total_episodes is {count!r}; allowed: {allowed}")
    episodes = _read_groups(data, count, low, high)
    bar = progress_bar("converting episodes", episodes, unit="episode", show=progress, total=count)
    kept = ("dataset_id", "minari_version", "requirements", "code_permalink", "algorithm_name")
    source = {key: metadata[key] for key in (*kept, _COLLECTION) if key in metadata}
    task = _task_of(metadata)
    with new_folder(buffer) as partial:
        for index, episode in enumerate(bar):
            check_consistent(_named(data, index), episode, domain)
            write_episode(partial, index, episode)
        write_metadata(partial, {**task, "format": "ExoRL", "domain": domain, "minari": source})
    return count


def _description(domain: str, collection: dict[str, Any]) -> str:
    """Says to a reader of Minari's metadata what the episodes are, and for which task."""
    described = f"Episodes of {domain}, converted from ExoRL's format."
    task, collector = collection.get("task"), collection.get("collector")
    return f"{described} Collected for task {task} by {collector}." if task else described


def _task_of(metadata: dict[str, Any]) -> dict[str, str]:
    """Returns the task whose rewards a dataset has, under its key; empty where it is not said."""
    collection = metadata.get(_COLLECTION)
    task = collection.get("task") if isinstance(collection, dict) else None
    return {"task": task} if isinstance(task, str) else {}


def _known_domain(buffer: str | Path, domain: str | None) -> str:
    domain = domain or domain_of(buffer)
    if domain is None:
        raise ValueError(
            f"buffer {buffer}: its folder names no domain; allowed: <domain>/<name>/buffer, or "
            "domain=<domain>"
        )
    domain_spec(domain)
    return domain


def _dataset_id(folder: Path) -> str:
    """Returns the id under which Minari knows a dataset that lies in `folder`."""
    root, path = os.environ.get("MINARI_DATASETS_PATH"), folder.absolute()
    with suppress(RuntimeError):  # a user without a home, as in some containers
        root = root or Path.home() / ".minari" / "datasets"
    inside = root and path.is_relative_to(Path(root).absolute())
    found = path.relative_to(Path(root).absolute()).as_posix() if inside else folder.name
    if not _ID.fullmatch(found):
        raise ValueError(
            f"minari={folder}: {found!r} is no name of a Minari dataset; allowed: letters, digits, "
            "- and _, and -v<number> at the end, such as walker-rnd-v0"
        )
    return found


def _unbounded(size: int) -> tuple[np.ndarray, np.ndarray]:
    return np.full(size, -np.inf), np.full(size, np.inf)


def _action_range(domain: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the smallest and the largest action of a domain's own environment, (A,) each."""
    if is_gymnasium(domain):
        return bounds(domain).action_low, bounds(domain).action_high
    size = domain_spec(domain).action
    return -np.ones(size), np.ones(size)


def _box(low: np.ndarray, high: np.ndarray, dtype: str) -> str:
    """Returns a space of vectors as Minari writes it."""
    return json.dumps(
        {
            "type": "Box",
            "dtype": dtype,
            "shape": [len(low)],
            "low": low.tolist(),
            "high": high.tolist(),
        }
    )


def _write_arrays(target: Path, files: list[Path], domain: str, progress: bool) -> tuple[int, bool]:
    """Writes the arrays of all episodes.

    Returns:
        the number of their steps, and whether any of these has a reward.
    """
    low, high = _action_range(domain)
    steps, paid = 0, False
    # In HDF5's default format, which the versions of others read.
    with new_hdf5(target, alone=True, libver=None, track_order=True) as file:
        for index, path in enumerate(
            progress_bar("converting episodes", files, unit="episode", show=progress)
        ):
            episode = read_episode(path, COLLECTED)
            check_consistent(path, episode, domain)
            if (columns := episode.reward.shape[1]) != 1:
                allowed = "episodes with one, since Minari keeps one reward a step"
                raise ValueError(f"{path}: reward has {columns} columns; allowed: {allowed}")
            arrays = _minari_arrays(episode, low, high)
            reserve(file, sum(array.nbytes for array in arrays.values()) + _GROUP_BYTES)
            group = file.create_group(f"episode_{index}")
            group.attrs["id"], group.attrs["total_steps"] = index, episode.length
            for key, array in arrays.items():
                group[key] = array
            steps += episode.length
            paid = paid or bool(episode.reward.any())
    return steps, paid


def _minari_arrays(episode: Episode, low: np.ndarray, high: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the arrays of an episode's group by their names there."""
    truncated = np.zeros(episode.length, bool)
    truncated[-1] = True
    infos = {"physics": episode.physics, **episode.extra}
    return {
        "observations": episode.observation.astype(np.float32),
        "actions": _to_range(episode.action[1:], low, high),
        "rewards": episode.reward[1:, 0].astype(np.float32),
        "terminations": np.zeros(episode.length, bool),
        "truncations": truncated,
        **{f"infos/{key}": array for key, array in infos.items() if array is not None},
    }


def _is_unit(low: np.ndarray, high: np.ndarray) -> bool:
    return bool((low == -1).all() and (high == 1).all())


def _to_range(action: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    # Left alone where it is the same range, as scaling rounds.
    if _is_unit(low, high):
        return action.astype(np.float32)
    scaled = low + (action + 1.0) * (high - low) / 2
    return np.clip(scaled, low, high).astype(np.float32)  # rounding may lead beyond the range


def _from_range(action: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    return action if _is_unit(low, high) else 2 * (action - low) / (high - low) - 1


def _read_metadata(data: Path) -> dict[str, Any]:
    try:
        metadata = json.loads((data / _METADATA).read_bytes())
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{data}: holds no Minari dataset ({error}); allowed: a folder with {_DATA}/{_METADATA}"
        ) from error
    if (kind := metadata.get("data_format", "hdf5")) != "hdf5":
        raise ValueError(f"{data}: is in the format {kind!r}; allowed: hdf5")
    return metadata


def _given_range(data: Path, metadata: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the range of a dataset's actions, (A,) each."""
    spaces = {
        key: json.loads(metadata.get(f"{key}_space", "{}")) for key in ("observation", "action")
    }
    for key, space in spaces.items():
        if space.get("type") != "Box" or len(space["shape"]) != 1:
            found = space.get("type", "nothing")
            raise ValueError(f"{data}: {key}_space is {found}; allowed: a Box of vectors")
    space, size = spaces["action"], tuple(spaces["action"]["shape"])
    try:
        low, high = (np.array(space[end], np.float64) for end in ("low", "high"))
        fit = low.shape == high.shape == size and np.isfinite([low, high]).all()
    except (TypeError, ValueError):  # no numbers
        fit = False
    if not fit or (low >= high).any():
        allowed = f"{size[0]} finite numbers in low and in high, low below high"
        raise ValueError(f"{data}: actions have no range; allowed: {allowed}")
    return low, high


def _read_groups(data: Path, count: int, low: np.ndarray, high: np.ndarray) -> Iterator[Episode]:
    """Yields the episodes of a dataset in the order of their numbers."""
    try:
        with h5py.File(data / _ARRAYS, "r") as file:
            for index in range(count):
                group = file[f"episode_{index}"]
                if not isinstance(group, h5py.Group):
                    raise KeyError(f"episode_{index} is no group")
                yield _read_group(_named(data, index), group, low, high)
    except (OSError, KeyError) as error:
        raise ValueError(f"{data / _ARRAYS}: cannot be read ({error})") from error


def _named(data: Path, index: int) -> Path:
    """Returns what stands for an episode of a dataset in errors."""
    return data / f"episode_{index}"


def _read_group(path: Path, group: h5py.Group, low: np.ndarray, high: np.ndarray) -> Episode:
    if (ended := np.flatnonzero(_numbers(path, group, "terminations"))).size:
        raise ValueError(
            f"{path}: ends by termination after {ended[0] + 1} steps; allowed: episodes that only "
            "a time limit ends"
        )
    actions, rewards = _numbers(path, group, "actions"), _numbers(path, group, "rewards")
    if actions.ndim != 2 or actions.shape[1] != len(low):
        raise ValueError(
            f"{path}: actions have the shape {actions.shape}; allowed: (steps, {len(low)}), as "
            "action_space says"
        )
    rows = {"action": _from_range(actions, low, high), "reward": rewards.reshape(-1, 1)}
    # Row 0 is the reset, whose action and reward are 0.
    rows = {key: np.pad(array, ((1, 0), (0, 0))) for key, array in rows.items()}
    rows |= {"observation": _numbers(path, group, "observations")}
    rows |= {"discount": np.ones_like(rows["reward"])}
    infos = group["infos"] if isinstance(group.get("infos"), h5py.Group) else {}
    extra = {key: infos[key][:] for key in _INFOS if _is_ours(infos.get(key), len(rows["reward"]))}
    check_arrays(path, rows | extra)
    return Episode(physics=extra.pop("physics", None), extra=extra, **rows)


def _numbers(path: Path, group: h5py.Group, key: str) -> np.ndarray:
    """Reads an array of an episode, (rows, ...), as floats."""
    found = group.get(key)
    if not isinstance(found, h5py.Dataset):
        raise ValueError(f"{path}: {key} is {'missing' if found is None else 'no array'}")
    if not found.ndim or found.dtype.kind not in "fiub":
        said = f"{key} is {found.dtype} of shape {found.shape}"
        raise ValueError(f"{path}: {said}; allowed: numbers, with a row for each step")
    array = found[:]
    return array if array.dtype.kind == "f" else array.astype(np.float64)


def _is_ours(info: h5py.Dataset | h5py.Group | None, rows: int) -> bool:
    """Tells whether an info has a row a step, as ours have: others use the same names."""
    is_table = isinstance(info, h5py.Dataset) and info.ndim == 2 and info.dtype.kind == "f"
    return is_table and len(info) == rows
