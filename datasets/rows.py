"""Reads rows of an uncompressed, checksummed HDF5 dataset from where they lie in the file.

HDF5 is asked once where the chunks are. Then a trajectory is one read of the file, several times
faster than through HDF5, holds no lock, and leaves memory alone. Every chunk's Fletcher-32 checksum
(four bytes after its data) is verified when first touched.
"""

from __future__ import annotations

import os
import weakref
from pathlib import Path

import h5py
import numpy as np

from datasets.files import open_hdf5


class Rows:
    """Rows of one dataset, as many as it had when this was made."""

    def __init__(self, path: str | Path, name: str) -> None:
        """Find the chunks.

        Raises:
            ValueError: the file is damaged or lacks the dataset.
        """
        self._what = f"{path}: {name}"
        try:
            with open_hdf5(path) as file:
                data = file[name]
                self.shape, self.dtype = data.shape, data.dtype
                self._chunk_rows = data.chunks[0]
                self._offsets = np.zeros(-(-data.shape[0] // self._chunk_rows), np.int64)

                def place(chunk: h5py.h5d.StoreInfo) -> None:
                    self._offsets[chunk.chunk_offset[0] // self._chunk_rows] = chunk.byte_offset

                data.id.chunk_iter(place)
        except (OSError, KeyError, RuntimeError) as error:
            raise ValueError(
                f"{self._what}: damaged or missing ({error}); delete the file to build it anew"
            ) from error
        self._row_bytes = int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize
        self._verified = np.zeros(len(self._offsets), bool)
        self._file = os.open(path, os.O_RDONLY)
        weakref.finalize(
            self, os.close, self._file
        )  # unlike __del__, before modules go at the end of the interpreter

    def __len__(self) -> int:
        """Number of rows."""
        return self.shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes of all rows."""
        return len(self) * self._row_bytes

    def read(self, start: int, stop: int, out: np.ndarray | None = None) -> np.ndarray:
        """Rows start..stop-1, into `out` where given.

        Raises:
            ValueError: a checksum does not match, naming file and rows.
        """
        if out is None:
            out = np.empty((stop - start, *self.shape[1:]), self.dtype)
        row = start
        while row < stop:
            chunk, first = divmod(row, self._chunk_rows)
            count = min(self._chunk_rows - first, stop - row)
            if not self._verified[chunk]:
                self._verify(chunk)
            target = memoryview(out[row - start : row - start + count]).cast("B")
            if os.preadv(
                self._file, [target], self._offsets[chunk] + first * self._row_bytes
            ) != len(target):
                raise self._damaged(chunk)
            row += count
        return out

    def _verify(self, chunk: int) -> None:
        size = self._chunk_rows * self._row_bytes
        stored = os.pread(self._file, size + 4, self._offsets[chunk])
        if len(stored) != size + 4 or fletcher32(stored[:size]) != int.from_bytes(
            stored[size:], "little"
        ):
            raise self._damaged(chunk)
        self._verified[chunk] = True

    def _damaged(self, chunk: int) -> ValueError:
        first = chunk * self._chunk_rows
        last = min(first + self._chunk_rows, len(self)) - 1
        return ValueError(
            f"{self._what}: rows {first} to {last} are damaged (checksum differs); delete the file to build it anew"
        )


def fletcher32(data: bytes) -> int:
    """HDF5's Fletcher-32 checksum (H5checksum.c): two running sums of big-endian 16-bit words
    modulo 65535, 0 as 65535.
    """
    words = np.frombuffer(data, ">u2").astype(np.uint64)
    low = int(words.sum()) % 65535
    high = int((words * np.arange(len(words), 0, -1, dtype=np.uint64)).sum()) % 65535
    return (high or 65535) << 16 | (low or 65535) if words.any() else 0
