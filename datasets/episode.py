"""One episode as one file, in the format of the ExoRL release (Yarats et al. 2022, arXiv
2201.13425).

A file holds T + 1 rows. Row 0 is the reset: its action and reward are 0, its discount 1. Transition
t = 1..T is observation[t-1], action[t], reward[t], discount[t], observation[t]. Names end with T:
`episode_000012_1000.npz` (ExoRL) and `20220101T101112_12_1000.npz` (URLB's own runs).
"""

from __future__ import annotations

import io
import math
import os
import re
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_NAME = re.compile(r"(?:episode|\d{8}T\d{6})_(\d+)_(\d+)\.npz")
_EXPECTED = "episodes are files such as episode_000000_1000.npz: episode_<number>_<transitions>.npz"
_REQUIRED = ("observation", "action", "reward", "discount")
_MAX_BYTES = 1 << 30  # no array of an episode comes near this; a damaged header may claim terabytes


class BadEpisode(ValueError):
    """A file that is not a whole, finite episode; the message names it and says why."""


@dataclass(frozen=True)
class Episode:
    """Rows 0..T of one trajectory.

    Attributes:
        observation: (T + 1, observation size) float32.
        action: (T + 1, action size) float32.
        reward: (T + 1, 1) float32; (T + 1, 4) in ExoRL's point_mass_maze and jaco, a column for
            each corner.
        discount: (T + 1, 1) float32.
        physics: (T + 1, physics size), float64 (third-party sets: float32); None where a set lacks
            it: no relabelling.
    """

    observation: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    discount: np.ndarray
    physics: np.ndarray | None

    @property
    def length(self) -> int:
        """Transitions T."""
        return len(self.observation) - 1


def episode_files(folder: str | Path) -> list[Path]:
    """The episodes of a buffer in order of collection, either style of name.

    Raises:
        ValueError: the folder does not exist or holds no episode.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"buffer {folder}: no such folder")
    try:
        names = [path.name for path in folder.iterdir()]
    except OSError as error:
        raise ValueError(f"buffer {folder}: cannot be listed ({error.strerror})") from error
    found = [(int(match[1]), name) for name in names if (match := _NAME.fullmatch(name))]
    if not found:
        raise ValueError(f"buffer {folder}: no episodes; {left_out(folder) or _EXPECTED}")
    return [folder / name for _, name in sorted(found)]


def left_out(folder: str | Path) -> str:
    """Says how many .npz files of a buffer have no name of an episode; empty if all have one.

    Folders that hold .npz files count too; hidden files do not.
    """
    others = [
        path.name
        for path in Path(folder).iterdir()
        if not path.name.startswith(".") and not _NAME.fullmatch(path.name) and _holds_npz(path)
    ]
    if not others:
        return ""
    what = "1 file or folder" if len(others) == 1 else f"{len(others)} files or folders"
    return f"{what} of another name left out, first: {min(others)!r}; {_EXPECTED}"


def _holds_npz(path: Path) -> bool:
    try:
        inside = list(path.iterdir()) if path.is_dir() else [path]
    except OSError:  # not ours to read
        return False
    return any(file.suffix.lower() == ".npz" for file in inside)


def read_episode(path: str | Path) -> Episode:
    """Read and check one episode.

    Returns:
        its arrays, dtypes as on disk.

    Raises:
        BadEpisode: the file is damaged, lacks an array, or its arrays are not finite numbers with
            one row a step.
    """
    path = Path(path)
    try:
        if not path.is_file():  # to open a pipe would be to wait for ever
            kind = (
                "not a file"
                if path.exists()
                else "a link to nothing"
                if path.is_symlink()
                else "gone"
            )
            raise BadEpisode(f"{path}: not a readable episode ({kind})")
        with zipfile.ZipFile(path) as archive:
            members = {
                member.filename.removesuffix(".npy"): member for member in archive.infolist()
            }
            arrays = {
                key: _array(path, archive, members[key])
                for key in (*_REQUIRED, "physics")
                if key in members
            }
    except BadEpisode:
        raise
    except (
        OSError,
        ValueError,
        EOFError,
        zipfile.BadZipFile,
        zlib.error,
        NotImplementedError,
        RuntimeError,
    ) as error:
        raise BadEpisode(
            f"{path}: not a readable episode ({type(error).__name__}: {error})"
        ) from error
    _check(path, arrays)
    return Episode(**{**arrays, "physics": arrays.get("physics")})


def _array(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    """One array, whose size is compared with what its header claims before anything is allocated
    for it.
    """
    if member.file_size > _MAX_BYTES:
        raise BadEpisode(
            f"{path}: {member.filename} claims {member.file_size} bytes; no episode has more than {_MAX_BYTES}"
        )
    stream = io.BytesIO(archive.read(member))
    version = np.lib.format.read_magic(stream)
    read_header = (
        np.lib.format.read_array_header_1_0
        if version == (1, 0)
        else np.lib.format.read_array_header_2_0
    )
    shape, fortran, dtype = read_header(stream)
    if dtype.hasobject:
        said = f"{member.filename} holds Python objects, which are not loaded"
        raise BadEpisode(f"{path}: {said}; expected an array of floats")
    size = math.prod(shape) * dtype.itemsize
    held = member.file_size - stream.tell()
    if size != held:
        raise BadEpisode(
            f"{path}: {member.filename} claims {dtype} of shape {shape}, {size} bytes, but holds {held}"
        )
    return np.frombuffer(stream.getbuffer(), dtype, offset=stream.tell()).reshape(
        shape, order="F" if fortran else "C"
    )


def _check(path: Path, arrays: dict[str, np.ndarray]) -> None:
    missing = [key for key in _REQUIRED if key not in arrays]
    if missing:
        raise BadEpisode(
            f"{path}: lacks {', '.join(missing)}; an episode has {', '.join(_REQUIRED)} and physics"
        )
    for key, array in arrays.items():
        if array.dtype.kind != "f" or array.ndim != 2:
            raise BadEpisode(
                f"{path}: {key} is {array.dtype} of shape {array.shape}; expected floats of shape (rows, size)"
            )
        if not np.isfinite(array).all():
            raise BadEpisode(f"{path}: {key} holds NaN or infinite values")
    rows = {key: len(array) for key, array in arrays.items()}
    if len(set(rows.values())) > 1:
        raise BadEpisode(f"{path}: arrays differ in rows: {rows}")
    length = len(arrays["observation"]) - 1
    match = _NAME.fullmatch(path.name)
    if length < 1 or (match and int(match[2]) != length):
        raise BadEpisode(
            f"{path}: holds {length} transitions; the name says {match[2] if match else 'at least 1'}"
        )


def write_episode(folder: str | Path, index: int, episode: Episode) -> Path:
    """Write an episode under its ExoRL name; a file is there whole or not at all.

    Returns:
        `<folder>/episode_<index>_<length>.npz`.
    """
    folder = Path(folder)
    path = folder / f"episode_{index:06d}_{episode.length}.npz"
    arrays = {key: np.asarray(getattr(episode, key), np.float32) for key in _REQUIRED}
    if episode.physics is not None:
        arrays["physics"] = np.asarray(episode.physics, np.float64)
    _check(path, arrays)
    partial = path.with_suffix(
        f".part{os.getpid()}"
    )  # several processes may collect the same buffer
    archive = io.BytesIO()
    np.savez_compressed(archive, **arrays)
    partial.write_bytes(archive.getbuffer())
    partial.replace(path)
    return path
