"""Reads and writes episodes, a file each, in the format of ExoRL (Yarats et al. 2022).

A file holds T + 1 rows. Row 0 is the reset: its action and reward are 0, its discount 1. Transition
t = 1..T is observation[t-1], action[t], reward[t], discount[t], observation[t]. Files may hold more
arrays, which readers of the format ignore. Ours reads `demonstrator`, and others on request. Names
end with T: `episode_000012_1000.npz` (ExoRL) and `20220101T101112_12_1000.npz` (URLB's own runs).

Source of the format: arXiv 2201.13425 and the data that its authors released.
"""

from __future__ import annotations

import io
import math
import re
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from pathlib import Path

import numpy as np

from datasets.new_file import new_file

_NAME = re.compile(r"(?:episode|\d{8}T\d{6})_(\d+)_(\d+)\.npz")
_EXPECTED = "episodes are files such as episode_000000_1000.npz: episode_<number>_<transitions>.npz"
_REQUIRED = ("observation", "action", "reward", "discount")
DEMONSTRATOR = "demonstrator"
"""Key of the actions that a demonstrator would have taken where noise was added to its own."""
COLLECTED = (DEMONSTRATOR, "parameters", "noise")
"""Keys of further arrays of our collectors: also the task's parameters and the noise's scale."""
_LARGEST = np.finfo(np.float32).max
_MAX_BYTES = 1 << 30  # no array of an episode comes near this; a damaged header may claim terabytes


class BadEpisode(ValueError):
    """Says that a file is not a whole, finite episode; names the file and the reason."""


@dataclass(frozen=True)
class Episode:
    """Holds rows 0..T of one trajectory.

    Attributes:
        observation: (T + 1, observation size) float32.
        action: (T + 1, action size) float32.
        reward: (T + 1, 1) float32; (T + 1, 4) in ExoRL's point_mass_maze and jaco, a column for
            each corner.
        discount: (T + 1, 1) float32.
        physics: (T + 1, physics size) float64 (float32 in third-party sets); None where a set lacks
            it, so that it cannot be relabelled.
        extra: further arrays by name, (T + 1, size) float32. Of those in a file, `demonstrator` is
            read, (T + 1, action size), and what `read_episode` is asked for.
    """

    observation: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    discount: np.ndarray
    physics: np.ndarray | None
    extra: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def demonstrator(self) -> np.ndarray | None:
        """Returns the demonstrator's actions, if there are any."""
        return self.extra.get(DEMONSTRATOR)

    @property
    def length(self) -> int:
        """Returns the number of transitions T."""
        return len(self.observation) - 1


def episode_files(folder: str | Path) -> list[Path]:
    """Lists the episodes of a buffer in the order of their numbers, with either style of name.

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
        raise ValueError(f"buffer {folder}: no episodes; {ignored_entries(folder) or _EXPECTED}")
    return [folder / name for _, name in sorted(found)]


def episode_path(folder: Path, index: int, length: int) -> Path:
    """Returns the path of the episode with number `index` and `length` transitions, as in ExoRL."""
    return folder / f"episode_{index:06d}_{length}.npz"


def length_in_name(path: Path) -> int:
    """Returns the number of transitions that an episode's file name states."""
    return int(_NAME.fullmatch(path.name)[2])


def ignored_entries(folder: str | Path) -> str:
    """Says how many .npz files of a buffer do not have the name of an episode; empty if all do.

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


def read_episode(path: str | Path, extra: Sequence[str] = (DEMONSTRATOR,)) -> Episode:
    """Reads and checks one episode.

    Args:
        path: of its file.
        extra: keys of further arrays, which are read if they are there.

    Returns:
        its arrays, with the dtypes that the file has.

    Raises:
        BadEpisode: the file is damaged, lacks an array, or its arrays are not finite numbers with
            one row a step.
    """
    path = Path(path)
    try:
        if not path.is_file():  # opening a pipe would wait for ever
            raise BadEpisode(f"{path}: not a readable episode ({_kind(path)})")
        with zipfile.ZipFile(path) as archive:
            members = {
                member.filename.removesuffix(".npy"): member for member in archive.infolist()
            }
            arrays = {
                key: _array(path, archive, members[key])
                for key in (*_REQUIRED, "physics", *extra)
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
    check_arrays(path, arrays)
    found = {key: arrays.pop(key) for key in extra if key in arrays}
    physics = arrays.pop("physics", None)
    if physics is not None and not physics.size:  # as collectors have it where there are no states
        physics = None
    return Episode(**arrays, physics=physics, extra=found)


def _kind(path: Path) -> str:
    if path.exists():
        return "not a file"
    return "a link to nothing" if path.is_symlink() else "gone"


def _array(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    """Reads one array; compares its size with its header before memory is taken for it."""
    if member.file_size > _MAX_BYTES:
        claimed = f"{member.filename} claims {member.file_size} bytes"
        raise BadEpisode(f"{path}: {claimed}; no episode has more than {_MAX_BYTES}")
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
        claimed = f"{member.filename} claims {dtype} of shape {shape}, {size} bytes"
        raise BadEpisode(f"{path}: {claimed}, but holds {held}")
    return np.frombuffer(stream.getbuffer(), dtype, offset=stream.tell()).reshape(
        shape, order="F" if fortran else "C"
    )


def check_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Checks that arrays are an episode's: floats, finite, with one row a step.

    Args:
        path: of the episode's file; an episode's name says how many transitions it has.
        arrays: by their names in the file.

    Raises:
        BadEpisode: they are not.
    """
    missing = [key for key in _REQUIRED if key not in arrays]
    if missing:
        required = ", ".join(_REQUIRED)
        raise BadEpisode(
            f"{path}: lacks {', '.join(missing)}; an episode has {required} and physics"
        )
    for key, array in arrays.items():
        if array.dtype.kind != "f" or array.ndim != 2:
            found = f"{key} is {array.dtype} of shape {array.shape}"
            raise BadEpisode(f"{path}: {found}; expected floats of shape (rows, size)")
        if key in (*_REQUIRED, DEMONSTRATOR) and not array.shape[1]:
            raise BadEpisode(f"{path}: {key} has no columns; expected at least 1")
        if not np.isfinite(array).all():
            raise BadEpisode(f"{path}: {key} holds NaN or infinite values")
        wide = key != "physics" and array.dtype.itemsize > 4
        if wide and (largest := np.abs(array).max(initial=0)) > _LARGEST:
            said = f"{key} reaches {largest:.3g}, beyond float32, as which it is kept"
            raise BadEpisode(f"{path}: {said}")
    rows = {key: len(array) for key, array in arrays.items()}
    if len(set(rows.values())) > 1:
        raise BadEpisode(f"{path}: arrays differ in rows: {rows}")
    held = len(arrays["observation"])
    if held < 2:
        raise BadEpisode(f"{path}: rows: {held}; expected at least 2, the reset and one transition")
    match = _NAME.fullmatch(path.name)
    if match and int(match[2]) != held - 1:
        raise BadEpisode(f"{path}: holds {held - 1} transitions; the name says {match[2]}")


def write_episode(folder: str | Path, index: int, episode: Episode) -> Path:
    """Writes an episode under its ExoRL name; the file is there whole or not at all.

    Args:
        folder: the buffer; it is made if it is not there.
        index: the episode's number.
        episode: its rows, of numbers.

    Returns:
        `<folder>/episode_<index>_<length>.npz`.

    Raises:
        ValueError: `index` is no whole number of at least 0, or the arrays do not form an episode.
    """
    folder = Path(folder)
    if not isinstance(index, Integral) or index < 0:
        raise ValueError(f"buffer {folder}: episode {index!r}; allowed: a whole number, 0 or more")
    path = episode_path(folder, index, episode.length)
    own = {key: getattr(episode, key) for key in (*_REQUIRED, "physics")}
    if taken := sorted(episode.extra.keys() & {*own, "file"}):  # `file` is an argument of savez
        raise ValueError(f"{path}: extra holds {', '.join(taken)}; allowed: other names")
    if episode.physics is not None and not np.size(episode.physics):
        del own["physics"]
    given = {key: np.asarray(x) for key, x in (own | {**episode.extra}).items() if x is not None}
    integers = {key: x.astype(np.float64) for key, x in given.items() if x.dtype.kind in "iub"}
    check_arrays(path, given | integers)
    arrays = {
        key: array.astype(np.float64 if key == "physics" else np.float32)
        for key, array in given.items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    archive = io.BytesIO()
    np.savez_compressed(archive, **arrays)
    with new_file(path) as partial:  # several may collect the same buffer
        partial.write_bytes(archive.getbuffer())
    return path
