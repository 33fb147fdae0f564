"""Keeps an array of rows in an HDF5 file, and a CRC-32 checksum of every block of rows beside it.

The rows are one contiguous dataset without filters, so row i lies at a fixed place in the file. A
reader takes rows with one `pread`: several times faster than through HDF5, and HDF5's caches do not
grow. (Mapping the file into memory would be as fast, but a file that is cut short would then end
the process by a signal instead of an error.) HDF5 checksums only chunked datasets, so these
checksums are ours: one for every 64 KiB, because one for every row would cost a call for every row.
"""

from __future__ import annotations

import os
import weakref
import zlib
from pathlib import Path

import h5py
import numpy as np

from datasets.hdf5_files import open_hdf5

_BLOCK_BYTES = 1 << 16
_BLOCKS_PER_WRITE = 4


class DamagedRows(ValueError):
    """Says that rows on the disk differ from what was written; names the file and the rows."""


class RowWriter:
    """Writes the rows of a dataset from the first to the last."""

    def __init__(self, file: h5py.File, name: str, shape: tuple[int, ...], dtype: type) -> None:
        """Creates the dataset.

        Args:
            file: open for writing.
            name: of the dataset.
            shape: (rows, ...), with room for all rows; fewer may be written.
            dtype: of the numbers.
        """
        row_bytes = int(np.prod(shape[1:], dtype=np.int64)) * np.dtype(dtype).itemsize
        self._file, self._name = file, name
        self._data = file.create_dataset(name, shape, dtype)
        self._block_rows = max(1, _BLOCK_BYTES // row_bytes)
        self._buffer = np.empty((_BLOCKS_PER_WRITE * self._block_rows, *shape[1:]), dtype)
        self._pending = 0  # rows of the buffer that wait to be written
        self._written = 0
        self._checksums: list[int] = []

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Returns the shape of one row."""
        return self._data.shape[1:]

    def append(self, rows: np.ndarray) -> None:
        """Writes the next rows, (any number, ...)."""
        while len(rows):
            free = self._buffer[self._pending :]
            count = min(len(free), len(rows))
            free[:count] = rows[:count]
            self._pending += count
            rows = rows[count:]
            if self._pending == len(self._buffer):
                self._write_pending()

    def finish(self) -> None:
        """Writes what is pending, and the checksums, without which the rows cannot be read."""
        if self._pending:
            self._write_pending()
        checksums = np.array(self._checksums, np.uint32)
        self._file.create_dataset(_checksums_of(self._name), data=checksums)
        self._data.attrs["rows"] = self._written
        self._data.attrs["block_rows"] = self._block_rows

    def _write_pending(self) -> None:
        rows, start = self._buffer[: self._pending], self._written
        self._data[start : start + len(rows)] = rows
        for first in range(0, len(rows), self._block_rows):
            self._checksums.append(zlib.crc32(rows[first : first + self._block_rows]))
        self._written += len(rows)
        self._pending = 0


class Rows:
    """Reads the rows of one dataset; every block is verified when it is first touched.

    The file stays open until this object goes, so its rows stay readable when another file takes
    its place.

    Attributes:
        shape: (rows, ...).
        dtype: of the numbers.
    """

    def __init__(self, path: str | Path, name: str) -> None:
        """Finds the rows in the file.

        Raises:
            ValueError: the file is damaged, lacks the dataset, or is of an earlier format.
        """
        self._name = f"{path}: {name}"
        try:
            with open_hdf5(path) as file:
                data = file[name]
                self._offset = data.id.get_offset()  # None for the chunks of earlier formats
                if self._offset is None:
                    raise KeyError("no contiguous rows")
                self.shape = (int(data.attrs["rows"]), *data.shape[1:])
                self.dtype = data.dtype
                self._block_rows = int(data.attrs["block_rows"])
                self._checksums = file[_checksums_of(name)][:].tolist()
                self._descriptor = os.dup(file.id.get_vfd_handle())
        except (OSError, KeyError, RuntimeError) as error:
            raise ValueError(
                f"{self._name}: damaged or missing ({error}); delete the file to build it anew"
            ) from error
        # A finalizer runs while the modules that it needs are still there, which `__del__` may not.
        weakref.finalize(self, os.close, self._descriptor)
        self._row_bytes = int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize
        self._unverified = bytearray(b"\x01" * len(self._checksums))  # one byte for each block

    def __len__(self) -> int:
        """Returns the number of rows."""
        return self.shape[0]

    @property
    def nbytes(self) -> int:
        """Returns the bytes of all rows."""
        return len(self) * self._row_bytes

    @property
    def checksum(self) -> int:
        """Returns a CRC-32 of all rows, from the checksums in the file; no row is read."""
        return zlib.crc32(np.array([*self.shape, *self._checksums], np.uint64))

    def read(self, start: int, stop: int, out: np.ndarray | None = None) -> np.ndarray:
        """Reads rows start..stop-1, into the contiguous array `out` where it is given.

        Raises:
            DamagedRows: a checksum does not match.
            IndexError: there are no such rows.
        """
        if not 0 <= start <= stop <= len(self):
            raise IndexError(f"{self._name}: has {len(self)} rows, none from {start} to {stop - 1}")
        first_block, past_block = start // self._block_rows, -(-stop // self._block_rows)
        if 1 in self._unverified[first_block:past_block]:
            for block in range(first_block, past_block):
                if self._unverified[block]:
                    self._verify(block)
        if out is None:
            out = np.empty((stop - start, *self.shape[1:]), self.dtype)
        if not self._read_bytes(start, out):
            raise self._damaged(start, stop)
        return out

    def _verify(self, block: int) -> None:
        start = block * self._block_rows
        stop = min(start + self._block_rows, len(self))
        rows = np.empty((stop - start, *self.shape[1:]), self.dtype)
        if not self._read_bytes(start, rows) or zlib.crc32(rows) != self._checksums[block]:
            raise self._damaged(start, stop)
        self._unverified[block] = 0

    def _read_bytes(self, start: int, out: np.ndarray) -> bool:
        """Fills `out` with the file's bytes from row `start` on; false if the file ends before."""
        target = memoryview(out.reshape(-1).view(np.uint8))
        offset = self._offset + start * self._row_bytes
        while target:  # Linux hands out at most 2 GiB at once
            count = os.preadv(self._descriptor, [target], offset)
            if not count:
                return False
            target, offset = target[count:], offset + count
        return True

    def _damaged(self, start: int, stop: int) -> DamagedRows:
        return DamagedRows(
            f"{self._name}: rows {start} to {stop - 1} are damaged (checksum differs); "
            "delete the file to build it anew"
        )


def _checksums_of(name: str) -> str:
    return f"{name}_crc32"
