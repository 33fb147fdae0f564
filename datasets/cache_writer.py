"""Writes a cache: one HDF5 file with all episodes of a buffer.

It holds:

    observation, action, reward, discount, physics, demonstrator
        (rows, size): the rows of all episodes, one episode after another, with checksums
        (`datasets.checksummed_rows`). The last two are there if the episodes have them.
    episodes
        (episodes,) of `EPISODE`: the name of each episode's file; its transitions T (it has T + 1
        rows); and its file's size and time of change, which tell whether the file was replaced.
    attributes `format`, `identity`, `domain`
        the version of this layout; a name of this build, which rewards computed from it repeat; and
        the domain whose data the episodes were checked to be.

Rows are not compressed, which would shrink them by a fifth at most: a reader takes the bytes of a
trajectory from where they lie.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

import h5py
import numpy as np

from datasets.checksummed_rows import Rows, RowWriter
from datasets.episode import Episode, length_in_name
from datasets.hdf5_files import open_hdf5, reserve

# Raise it with any change of what is written or checked here: caches of another format are rebuilt.
FORMAT = 4
FIELDS = ("observation", "action", "reward", "discount", "physics", "demonstrator")
# 255 bytes is the longest name of a file on Linux. The time of change is in nanoseconds.
EPISODE = np.dtype([("name", "S255"), ("length", "i8"), ("size", "i8"), ("changed", "i8")])
_ROWS_AT_ONCE = 1 << 14


class CacheWriter:
    """Writes the episodes of a new cache, one after another."""

    def __init__(
        self, file: h5py.File, files: Sequence[Path], previous: Path | None = None
    ) -> None:
        """Starts from the episodes of an earlier cache.

        Args:
            file: the new cache, empty.
            files: the episodes to come. Their names say how many rows they take.
            previous: the earlier cache; None starts from nothing.

        Raises:
            DamagedRows: the earlier cache is damaged.
        """
        self._file, self._new_files = file, files
        self._writers: dict[str, RowWriter] = {}
        self._episodes: list[tuple[bytes, int, int, int]] = []  # as `EPISODE`
        self._identity = uuid.uuid4().hex
        if previous is not None:
            self._copy(previous)

    def append(self, name: str, stamp: tuple[int, int], episode: Episode) -> None:
        """Writes one episode.

        Args:
            name: of its file.
            stamp: its file's size and time of change.
            episode: its rows.

        Raises:
            ValueError: it has other arrays than those before it, or arrays of other sizes.
        """
        arrays = {key: x for key in FIELDS if (x := getattr(episode, key)) is not None}
        if not self._writers:
            self._create(arrays)
        found = {key: array.shape[1] for key, array in arrays.items()}
        before = {key: writer.row_shape[0] for key, writer in self._writers.items()}
        for key in FIELDS:
            if found.get(key) != before.get(key):
                raise ValueError(
                    f"{self._new_files[0].with_name(name)}: {key} has {found.get(key, 'no')} "
                    f"columns, but earlier episodes have {before.get(key, 'none')}; allowed: "
                    "the same in all episodes of a buffer"
                )
        for field, writer in self._writers.items():
            writer.append(arrays[field])
        self._episodes.append((name.encode(), episode.length, *stamp))

    def finish(self, domain: str | None) -> None:
        """Writes what describes the episodes, and that they were checked to be of `domain`."""
        for writer in self._writers.values():
            writer.finish()
        episodes = np.array(self._episodes, EPISODE)
        # HDF5 itself verifies this checksum, which it has only for chunked datasets.
        self._file.create_dataset("episodes", data=episodes, chunks=episodes.shape, fletcher32=True)
        attributes = {"format": FORMAT, "identity": self._identity, "domain": domain or ""}
        self._file.attrs.update(attributes)

    def _copy(self, previous: Path) -> None:
        """Copies an earlier cache, whose rows keep their places: its rewards stay valid."""
        with open_hdf5(previous) as cache:
            self._episodes = cache["episodes"][:].tolist()
            self._identity = cache.attrs["identity"]
            fields = [field for field in FIELDS if field in cache]
        rows = {field: Rows(previous, field) for field in fields}
        self._create(rows)
        for field, source in rows.items():
            for start in range(0, len(source), _ROWS_AT_ONCE):
                stop = min(start + _ROWS_AT_ONCE, len(source))
                self._writers[field].append(source.read(start, stop))

    def _create(self, like: Mapping[str, np.ndarray | Rows]) -> None:
        """Makes room for the rows of all episodes, of the sizes of arrays `like`."""
        lengths = [length for _, length, *_ in self._episodes]
        lengths += [length_in_name(path) for path in self._new_files]
        total = sum(lengths) + len(lengths)
        dtypes = {field: np.float64 if field == "physics" else np.float32 for field in like}
        columns = {field: array.shape[1] for field, array in like.items()}
        row_bytes = sum(columns[key] * np.dtype(dtypes[key]).itemsize for key in like)
        reserve(self._file, total * row_bytes + len(lengths) * EPISODE.itemsize)
        self._writers = {
            field: RowWriter(self._file, field, (total, columns[field]), dtypes[field])
            for field in like
        }
