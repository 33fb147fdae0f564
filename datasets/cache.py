"""A buffer of thousands of npz files as one HDF5 file, read once.

    observation, action, reward, discount, physics    rows of all episodes, one after another;
    chunks with Fletcher-32 checksums length (episodes,)  name (episodes,)              transitions
    T of each (T + 1 rows), and its file stamp (episodes, 2)                               size and
    time of change of that file, by which a file made anew is noticed attributes format, identity
    of this layout, and of this build: rewards beside it belong to it alone

Rows are stored without compression (they shrink by a fifth at most), so a reader takes a
trajectory's bytes where they lie.
"""

from __future__ import annotations

import math
import os
import uuid
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
from tqdm import tqdm

from datasets.consistency import check_consistent, domain_of
from datasets.episode import BadEpisode, Episode, episode_files, left_out, read_episode
from datasets.files import locked, new_hdf5, open_hdf5, reserve, unwritable

FIELDS = ("observation", "action", "reward", "discount", "physics")
FORMAT = (
    2  # raise it with any change of what is written or checked here: other caches are built anew
)
_CHUNK_BYTES = (
    1 << 16
)  # short episodes share a chunk up to this size; a longer episode is a chunk of its own
_BATCH_ROWS = 1 << 16  # rows held in memory between two writes
_BAD_SHARE = 0.01


def cache_path(buffer: str | Path, place: str | Path | None = None) -> Path:
    """Returns where the cache of a buffer lies, and its rewards beside it.

    Args:
        buffer: a folder of episodes.
        place: a folder for caches, in which each lies under the whole path of its buffer, so that
            no two collide; None puts it beside the episodes, as `<buffer>.h5`.
    """
    buffer = Path(buffer)
    if place is not None:
        buffer = Path(place, *buffer.resolve().parts[1:])
    return buffer.with_name(f"{buffer.name}.h5")


def build_cache(
    buffer: str | Path,
    domain: str | None = None,
    *,
    place: str | Path | None = None,
    progress: bool = True,
    skip_bad: bool = False,
) -> Path:
    """Bring the cache of a buffer up to date: only episodes that it lacks are read, unless one has
    changed or is gone.

    Several processes may call this at once, and readers may go on reading: one builds, the others
    wait. A cache that an interrupted append left unreadable is built anew. Files that are no
    episodes by their names are left out, which is said.

    Args:
        buffer: a folder of episodes.
        domain: whose body must move in them, which is checked once, as `verify` does; None: the
            one that `<domain>/<algo>/buffer` names, if any.
        place: a folder for caches; None is beside the episodes. See `cache_path`.
        progress: show a progress bar.
        skip_bad: leave out episodes that are bad, up to 1% of the buffer, and say how many.

    Returns:
        the cache's path.

    Raises:
        ValueError: no episodes, a bad one (more than 1% with `skip_bad`), one of another domain,
            episodes of differing sizes, or a place that cannot be written.
    """
    path = cache_path(buffer, place)
    files = episode_files(buffer)
    domain = domain_of(buffer) if domain is None else domain
    if others := left_out(buffer):
        tqdm.write(f"{buffer}: {others}")
    with locked(path, shared=True):
        if not _missing(path, files, domain)[0]:
            return path
    with locked(path) as held:
        new, why = _missing(path, files, domain)
        if why:
            tqdm.write(f"{path}: {why}; built anew")
        try:
            if held and len(new) < len(files):
                with open_hdf5(path, "a") as cache:
                    bad = _read_into(cache, new, domain, len(files), skip_bad, progress)
            else:  # without locks another process may be building, too
                partial = path.with_suffix(".part" if held else f".part{os.getpid()}")
                with new_hdf5(path, partial) as cache:
                    bad = _read_into(cache, files, domain, len(files), skip_bad, progress)
        except OSError as error:
            raise unwritable(path, error) from error
    if bad:
        tqdm.write(f"{buffer}: left out {len(bad)} bad of {len(files)} episodes, first: {bad[0]}")
    return path


def _missing(path: Path, files: Sequence[Path], domain: str | None) -> tuple[list[Path], str]:
    """Returns those of `files` that the cache lacks; if it is of no use, all of them, and why."""
    if not path.exists():
        return list(files), ""
    try:
        with open_hdf5(path) as cache:
            if cache.attrs.get("format") != FORMAT:
                return list(files), "of an earlier format"
            names, stamps = cache["name"].asstr()[:], cache["stamp"][:].tolist()
            cache["length"][:]  # damaged or not
            checked = cache.attrs.get("domain")
    except (OSError, KeyError) as error:
        return list(files), f"unreadable ({error})"
    if domain not in (None, checked):
        return list(files), f"its episodes were not checked to be {domain}'s"
    known = dict(zip(names, map(tuple, stamps), strict=True))
    changed = [file.name for file in files if known.get(file.name) not in (None, _stamp(file))]
    # Another process may have cached what was not yet there when `files` were listed: only what is
    # not on disk is gone.
    gone = [
        name
        for name in known.keys() - {file.name for file in files}
        if not (files[0].parent / name).exists()
    ]
    if changed or gone:
        return list(
            files
        ), f"{len(changed + gone)} of its episodes have changed or are gone: {(changed + gone)[0]}"
    return [file for file in files if file.name not in known], ""


def _stamp(file: Path) -> tuple[int, int] | None:
    """Returns the size and the time of change of a file; None if it is not there, or a link to
    nothing.
    """
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def _read_into(
    cache: h5py.File,
    files: Sequence[Path],
    domain: str | None,
    total: int,
    skip_bad: bool,
    progress: bool,
) -> list[BadEpisode]:
    """Appends files to the cache; returns those that were left out."""
    bad: list[BadEpisode] = []
    pending: list[tuple[str, tuple[int, int], Episode]] = []
    rows = 0
    for file in tqdm(
        files, desc="caching episodes", unit="episode", disable=not progress, mininterval=0.5
    ):
        try:
            stamp, episode = _stamp(file) or (-1, -1), read_episode(file)
            check_consistent(file, episode, domain)
        except BadEpisode as error:
            bad.append(error)
            if not skip_bad:
                raise
            if len(bad) > _BAD_SHARE * total:
                share = f"{len(bad)} bad episodes are more than {_BAD_SHARE:.0%} of {total}"
                raise ValueError(f"{share}; the last: {error}") from error
            continue
        pending.append((file.name, stamp, episode))
        rows += episode.length + 1
        if rows >= _BATCH_ROWS:
            append(cache, pending)
            pending, rows = [], 0
    append(cache, pending)
    cache.attrs["domain"] = domain or ""
    return bad


def append(cache: h5py.File, pending: Sequence[tuple[str, tuple[int, int], Episode]]) -> None:
    """Append episodes, each with the name of its file and its stamp.

    Raises:
        ValueError: an episode's arrays have other sizes than those before it.
    """
    if not pending:
        return
    names, stamps, episodes = zip(*pending, strict=True)
    if "name" not in cache:
        _create(cache, episodes[0])
    count = len(cache["name"])
    start = int(np.sum(cache["length"][:] + 1))
    rows = sum(episode.length + 1 for episode in episodes)
    bytes_of_rows = rows * sum(
        cache[field].shape[1] * cache[field].dtype.itemsize for field in FIELDS if field in cache
    )
    reserve(
        cache,
        bytes_of_rows
        + sum(math.prod(data.chunks) * data.dtype.itemsize for data in cache.values()),
    )
    for field in (field for field in FIELDS if field in cache):
        data = cache[field]
        arrays = [getattr(episode, field) for episode in episodes]
        for name, array in zip(names, arrays, strict=True):
            if array is None or array.shape[1] != data.shape[1]:
                shape = None if array is None else array.shape
                raise ValueError(
                    f"{name}: {field} has shape {shape}, but earlier episodes have {data.shape[1]} columns"
                )
        data.resize(start + rows, axis=0)
        data[start:] = np.concatenate(arrays)
    lengths = [episode.length for episode in episodes]
    for field, values in (("length", lengths), ("stamp", stamps), ("name", names)):
        cache[field].resize(count + len(pending), axis=0)
        cache[field][count:] = values
    cache.flush()


def _create(cache: h5py.File, episode: Episode) -> None:
    cache.attrs["format"], cache.attrs["identity"] = FORMAT, uuid.uuid4().hex
    rows = episode.length + 1
    for field in FIELDS:
        array = getattr(episode, field)
        if array is None:
            continue
        dtype = np.float64 if field == "physics" else np.float32
        together = max(1, _CHUNK_BYTES // (rows * array.shape[1] * np.dtype(dtype).itemsize))
        create_rows(cache, field, (0, array.shape[1]), dtype, rows * together)
    cache.create_dataset(
        "length", (0,), np.int64, maxshape=(None,), chunks=(4096,), fletcher32=True
    )
    cache.create_dataset(
        "stamp", (0, 2), np.int64, maxshape=(None, 2), chunks=(4096, 2), fletcher32=True
    )
    cache.create_dataset(
        "name",
        (0,),
        h5py.string_dtype(length=255),
        maxshape=(None,),
        chunks=(256,),
        fletcher32=True,
    )


def create_rows(
    file: h5py.File, name: str, shape: tuple[int, ...], dtype: type, chunk_rows: int
) -> h5py.Dataset:
    """A dataset that grows along its rows and knows its checksums."""
    return file.create_dataset(
        name,
        shape,
        dtype,
        maxshape=(None, *shape[1:]),
        chunks=(chunk_rows, *shape[1:]),
        fletcher32=True,
    )
