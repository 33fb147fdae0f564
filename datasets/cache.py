"""Builds one HDF5 file, the cache, from a buffer of thousands of npz files.

`datasets.cache_writer` describes the file.
"""

from __future__ import annotations

from pathlib import Path

from tqdm import tqdm

from datasets.cache_writer import FORMAT, CacheWriter
from datasets.checksummed_rows import DamagedRows
from datasets.consistency import check_consistent, domain_of
from datasets.episode import episode_files, ignored_entries, read_episode
from datasets.hdf5_files import new_hdf5, open_hdf5, unwritable
from datasets.locks import read_lock, write_lock
from datasets.progress import progress_bar


def cache_path(buffer: str | Path, place: str | Path | None = None) -> Path:
    """Returns the path of a buffer's cache.

    Args:
        buffer: a folder of episodes.
        place: a folder for caches, in which each lies under the whole path of its buffer, so that
            no two collide; None puts it beside the episodes, as `<buffer>.h5`.
    """
    buffer = Path(buffer)
    if buffer.name in ("", ".."):  # "." names no folder beside which the cache could lie
        buffer = buffer.resolve()
    if place is not None:
        buffer = Path(place, *buffer.resolve().parts[1:])
    return buffer.with_name(f"{buffer.name}.h5")


def build_cache(
    buffer: str | Path,
    domain: str | None = None,
    *,
    place: str | Path | None = None,
    progress: bool = True,
) -> Path:
    """Brings the cache of a buffer up to date.

    Only episodes that the cache lacks are read, unless one of those in it has changed or is gone.
    A cache is written to a new file, which takes the old one's place when it is whole. So several
    processes may call this at once (one builds, the others wait), and readers may go on reading.
    Files without the name of an episode are left out, and a line says so.

    Args:
        buffer: a folder of episodes.
        domain: the domain whose data they should be. It is checked once, as `verify` does. None
            takes the one that `<domain>/<algo>/buffer` names, if any.
        place: a folder for caches; None is beside the episodes. See `cache_path`.
        progress: show a progress bar.

    Returns:
        the cache's path.

    Raises:
        ValueError: no episodes, a bad one, one of another domain, episodes of differing sizes, or a
            place that cannot be written.
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
            _update(path, files, domain, held, progress)
    except OSError as error:
        raise unwritable(path, error) from error
    return path


def _update(path: Path, files: list[Path], domain: str | None, held: bool, progress: bool) -> None:
    """Writes the cache anew with the episodes that it lacks, if it lacks any."""
    missing, reason = _missing(path, files, domain)
    if not missing:
        return
    if reason:
        tqdm.write(f"{path}: {reason}; built anew")
    if held and len(missing) < len(files):
        try:
            _write(path, held, missing, domain, progress, previous=path)
            return
        except DamagedRows as error:
            tqdm.write(f"{error}: built anew")
    # Without locks another process may be building, too. Each then writes from the episodes alone,
    # with an identity of its own.
    _write(path, held, files, domain, progress, previous=None)


def _write(
    path: Path,
    held: bool,
    files: list[Path],
    domain: str | None,
    progress: bool,
    previous: Path | None,
) -> None:
    """Writes the episodes of an earlier cache, if there is one, and those of `files`."""
    with new_hdf5(path, alone=held) as cache:
        writer = CacheWriter(cache, files, previous)
        for file in progress_bar("caching episodes", files, unit="episode", show=progress):
            # The stamp is taken before the file is read, so that a later change shows.
            stamp, episode = _stamp(file) or (-1, -1), read_episode(file)
            check_consistent(file, episode, domain)
            writer.append(file.name, stamp, episode)
        writer.finish(domain)


def _missing(path: Path, files: list[Path], domain: str | None) -> tuple[list[Path], str]:
    """Returns the files that the cache lacks; all of them, and the reason, if it is of no use."""
    if not path.exists():
        return files, ""
    try:
        with open_hdf5(path) as cache:
            if cache.attrs.get("format") != FORMAT:
                return files, "of an earlier format"
            index, checked = cache["episodes"][:], cache.attrs.get("domain")
    except (OSError, KeyError) as error:
        return files, f"unreadable ({error})"
    if domain not in (None, checked):
        return files, f"its episodes were not checked to be {domain}'s"
    cached = {name.decode(): tuple(stamp) for name, _, *stamp in index.tolist()}
    changed = [file.name for file in files if cached.get(file.name) not in (None, _stamp(file))]
    # Another process may have cached an episode that came after `files` were listed, so an episode
    # is gone only if it is not on the disk.
    listed = {file.name for file in files}
    folder = files[0].parent
    gone = [name for name in cached if name not in listed and not (folder / name).exists()]
    if lost := changed + gone:
        return files, f"{len(lost)} of its episodes have changed or are gone: {lost[0]}"
    missing = [file for file in files if file.name not in cached]
    if cached and missing != files[len(files) - len(missing) :]:
        # Appended, they would stand after later ones. Readers rely on the order of the numbers:
        # learning histories, and draws of a subset, which should not depend on when it was cached.
        return files, f"{missing[0].name} belongs before episodes that it holds"
    return missing, ""


def _stamp(file: Path) -> tuple[int, int] | None:
    """Returns the size and the time of change of a file; None if it is absent."""
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns
