"""Builds one HDF5 file, the cache, from a buffer of thousands of npz files.

It holds:

    observation, action, reward, discount, physics
        (rows, size): the rows of all episodes, one episode after another, with checksums
        (`datasets.checksummed_rows`).
    length (episodes,), name (episodes,), stamp (episodes, 2)
        transitions T of each episode (which has T + 1 rows), the name of its file, and the size
        and the time of change of that file, which tell whether the file was replaced since.
    attributes `format`, `identity`, `domain`
        the version of this layout; a name of this build, which rewards computed from it repeat; and
        the domain whose data the episodes were checked to be.

Rows are not compressed, which would shrink them by a fifth at most: a reader takes the bytes of a
trajectory from where they lie.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
from tqdm import tqdm

from datasets.checksummed_rows import DamagedRows, Rows, RowWriter
from datasets.consistency import check_consistent, domain_of
from datasets.episode import (
    BadEpisode,
    Episode,
    episode_files,
    ignored_entries,
    length_in_name,
    read_episode,
)
from datasets.hdf5_files import new_hdf5, open_hdf5, reserve, unwritable
from datasets.locks import read_lock, write_lock

# Raise it with any change of what is written or checked here: caches of another format are rebuilt.
FORMAT = 3
FIELDS = ("observation", "action", "reward", "discount", "physics")
_NAME_BYTES = 255  # the longest name of a file on Linux
_COPIED_ROWS = 1 << 14
_MAX_BAD_SHARE = 0.01


class Stamp(NamedTuple):
    """Identifies a version of a file.

    Attributes:
        size: bytes.
        changed: time of change, nanoseconds.
    """

    size: int
    changed: int


def cache_path(buffer: str | Path, place: str | Path | None = None) -> Path:
    """Returns the path of a buffer's cache.

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
    """Brings the cache of a buffer up to date.

    Only episodes that the cache lacks are read, unless one of those in it has changed or is gone.
    A cache is written to a new file, which takes the old one's place when it is whole. So several
    processes may call this at once (one builds, the others wait), and readers may go on reading.
    Files whose names are no episode's are left out, and a line says so.

    Args:
        buffer: a folder of episodes.
        domain: the domain whose data they should be. It is checked once, as `verify` does. None
            takes the one that `<domain>/<algo>/buffer` names, if any.
        place: a folder for caches; None is beside the episodes. See `cache_path`.
        progress: show a progress bar.
        skip_bad: leave out bad episodes, up to 1% of the buffer, and print how many.

    Returns:
        the cache's path.

    Raises:
        ValueError: no episodes, a bad one (more than 1% with `skip_bad`), one of another domain,
            episodes of differing sizes, or a place that cannot be written.
    """
    path = cache_path(buffer, place)
    files = episode_files(buffer)
    domain = domain_of(buffer) if domain is None else domain
    if ignored := ignored_entries(buffer):
        tqdm.write(f"{buffer}: {ignored}")
    with read_lock(path):
        if not _missing(path, files, domain)[0]:
            return path
    try:
        with write_lock(path) as held:
            bad = _update(path, files, domain, held, skip_bad, progress)
    except OSError as error:
        raise unwritable(path, error) from error
    if bad:
        tqdm.write(f"{buffer}: left out {len(bad)} bad of {len(files)} episodes, first: {bad[0]}")
    return path


def _update(
    path: Path, files: list[Path], domain: str | None, held: bool, skip_bad: bool, progress: bool
) -> list[BadEpisode]:
    """Writes the cache anew with the episodes that it lacks; returns the bad ones."""
    missing, reason = _missing(path, files, domain)
    if not missing:  # another process was faster
        return []
    if reason:
        tqdm.write(f"{path}: {reason}; built anew")
    if held and len(missing) < len(files):
        try:
            with new_hdf5(path, path.with_suffix(".part")) as file:
                writer = CacheWriter(file, missing, previous=path)
                return _write(writer, missing, domain, len(files), skip_bad, progress)
        except DamagedRows as error:
            tqdm.write(f"{error}: built anew")
    # Without locks another process may be building, too. Each then writes a file of its own, from
    # the episodes alone and with an identity of its own.
    with new_hdf5(path, path.with_suffix(".part" if held else f".part{os.getpid()}")) as file:
        return _write(CacheWriter(file, files), files, domain, len(files), skip_bad, progress)


def _write(
    writer: CacheWriter,
    files: list[Path],
    domain: str | None,
    total: int,
    skip_bad: bool,
    progress: bool,
) -> list[BadEpisode]:
    """Writes the good ones of `files`, of a buffer of `total` episodes; returns the bad ones."""
    bad: list[BadEpisode] = []
    bar = tqdm(files, "caching episodes", unit="episode", disable=not progress, mininterval=0.5)
    for file in bar:
        try:
            # The stamp is taken before the file is read, so that a later change shows.
            stamp, episode = _stamp(file) or Stamp(-1, -1), read_episode(file)
            check_consistent(file, episode, domain)
        except BadEpisode as error:
            bad.append(error)
            if not skip_bad:
                raise
            if len(bad) > _MAX_BAD_SHARE * total:
                share = f"{len(bad)} bad episodes are more than {_MAX_BAD_SHARE:.0%} of {total}"
                raise ValueError(f"{share}; the last: {error}") from error
        else:
            writer.append(file.name, stamp, episode)
    writer.finish(domain)
    return bad


def _missing(path: Path, files: list[Path], domain: str | None) -> tuple[list[Path], str]:
    """Returns the files that the cache lacks; all of them, and the reason, if it is of no use."""
    if not path.exists():
        return files, ""
    try:
        with open_hdf5(path) as cache:
            if cache.attrs.get("format") != FORMAT:
                return files, "of an earlier format"
            names, stamps = cache["name"].asstr()[:], cache["stamp"][:].tolist()
            cache["length"][:]  # raises if it is damaged
            checked = cache.attrs.get("domain")
    except (OSError, KeyError) as error:
        return files, f"unreadable ({error})"
    if domain not in (None, checked):
        return files, f"its episodes were not checked to be {domain}'s"
    cached = dict(zip(names, map(tuple, stamps), strict=True))
    changed = [file.name for file in files if cached.get(file.name) not in (None, _stamp(file))]
    # Another process may have cached an episode that came after `files` were listed, so an episode
    # is gone only if it is not on the disk.
    listed = {file.name for file in files}
    folder = files[0].parent
    gone = [name for name in cached if name not in listed and not (folder / name).exists()]
    if lost := changed + gone:
        return files, f"{len(lost)} of its episodes have changed or are gone: {lost[0]}"
    return [file for file in files if file.name not in cached], ""


def _stamp(file: Path) -> Stamp | None:
    """Returns the stamp of a file; None if it is absent, or a link to nothing."""
    try:
        status = file.stat()
    except OSError:
        return None
    return Stamp(status.st_size, status.st_mtime_ns)


class CacheWriter:
    """Writes the episodes of a new cache, one after another."""

    def __init__(
        self, file: h5py.File, files: Sequence[Path], previous: Path | None = None
    ) -> None:
        """Starts from the episodes of an earlier cache.

        Args:
            file: the new cache, empty.
            files: the episodes to come. Their names say how many rows they take; less may come.
            previous: the earlier cache; None starts from nothing.

        Raises:
            DamagedRows: the earlier cache is damaged.
        """
        self._file, self._writers = file, {}
        self._names: list[str] = []
        self._stamps: list[Stamp] = []
        self._lengths: list[int] = []
        self._new_rows = sum(length_in_name(path) + 1 for path in files)
        self._new_episodes = len(files)
        self._identity = uuid.uuid4().hex
        if previous is not None:
            self._copy(previous)

    def append(self, name: str, stamp: Stamp, episode: Episode) -> None:
        """Writes one episode.

        Raises:
            ValueError: its arrays have other sizes than those before it.
        """
        arrays = {field: getattr(episode, field) for field in FIELDS}
        if not self._writers:
            self._create({key: array for key, array in arrays.items() if array is not None}, 0)
        for field, writer in self._writers.items():
            array = arrays[field]
            if array is None or array.shape[1:] != writer.row_shape:
                shape = None if array is None else array.shape
                columns = f"earlier episodes have {writer.row_shape[0]} columns"
                raise ValueError(f"{name}: {field} has shape {shape}, but {columns}")
        for field, writer in self._writers.items():
            writer.append(arrays[field])
        self._names.append(name)
        self._stamps.append(stamp)
        self._lengths.append(episode.length)

    def finish(self, domain: str | None) -> None:
        """Writes what describes the episodes, and that they were checked to be of `domain`."""
        for writer in self._writers.values():
            writer.finish()
        count = len(self._names)
        columns = {
            "length": (np.int64, self._lengths),
            "stamp": (np.int64, self._stamps),
            "name": (h5py.string_dtype(length=_NAME_BYTES), self._names),
        }
        for key, (dtype, values) in columns.items():
            shape = (count, 2) if key == "stamp" else (count,)
            # HDF5 verifies these checksums itself whenever it reads the whole dataset.
            data = self._file.create_dataset(key, shape, dtype, chunks=shape, fletcher32=True)
            data[:] = values
        attributes = {"format": FORMAT, "identity": self._identity, "domain": domain or ""}
        self._file.attrs.update(attributes)

    def _copy(self, previous: Path) -> None:
        """Copies an earlier cache, whose rows keep their places: its rewards stay valid."""
        with open_hdf5(previous) as cache:
            self._names = cache["name"].asstr()[:].tolist()
            self._stamps = [Stamp(*stamp) for stamp in cache["stamp"][:].tolist()]
            self._lengths = cache["length"][:].tolist()
            self._identity = cache.attrs["identity"]
            fields = [field for field in FIELDS if field in cache]
        rows = {field: Rows(previous, field) for field in fields}
        self._create(rows, len(rows[fields[0]]))
        for field, source in rows.items():
            for start in range(0, len(source), _COPIED_ROWS):
                stop = min(start + _COPIED_ROWS, len(source))
                self._writers[field].append(source.read(start, stop))

    def _create(self, like: dict[str, np.ndarray | Rows], copied: int) -> None:
        """Makes room for `copied` rows and for the new ones, of the sizes of arrays `like`."""
        total = copied + self._new_rows
        shapes = {field: (total, *array.shape[1:]) for field, array in like.items()}
        dtypes = {field: np.float64 if field == "physics" else np.float32 for field in like}
        row_bytes = sum(shapes[key][1] * np.dtype(dtypes[key]).itemsize for key in like)
        episode_bytes = _NAME_BYTES + 3 * np.dtype(np.int64).itemsize
        episodes = len(self._names) + self._new_episodes
        reserve(self._file, total * row_bytes + episodes * episode_bytes)
        self._writers = {
            field: RowWriter(self._file, field, shapes[field], dtypes[field]) for field in like
        }
