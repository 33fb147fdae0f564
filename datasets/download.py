"""Downloads ExoRL's data sets: fetches, checks and unpacks their archives."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import re
import shutil
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

from datasets.locks import wait_for_lock
from datasets.progress import progress_bar
from datasets.resumable_transfer import check_space, fetch
from envs.registry import unknown

SERVER = "https://dl.fbaipublicfiles.com/exorl"
DOMAINS = ("cartpole", "cheetah", "jaco", "point_mass_maze", "quadruped", "walker")
ALGORITHMS = ("aps", "icm_apt", "diayn", "disagreement", "icm", "proto", "random", "rnd", "smm")
_STARTED = ".unfinished"  # lies in a data set's folder until it is unpacked
_DONE = ".complete"  # holds the archive's SHA-256
_BLOCK_BYTES = 1 << 20


def download(
    domain: str,
    algorithm: str,
    root: str | Path,
    *,
    sha256: str | None = None,
    server: str = SERVER,
    progress: bool = True,
    pause: Callable[[float], None] = time.sleep,
) -> Path:
    """Fetches and unpacks one data set.

    A transfer that breaks off goes on where it stopped, within this call and in a later one. A
    server that cannot be reached in the first place ends the call at once. An archive that was
    brought to `<root>/<domain>/<algorithm>.zip` by hand is used. The archive's own checksums are
    always verified. Its SHA-256 is kept in `.complete`, and compared with `sha256` (the release
    publishes none). Of several processes that call this at once, one unpacks.

    Args:
        domain: of `DOMAINS`.
        algorithm: of `ALGORITHMS`, the exploration that made the data.
        root: the buffer becomes `<root>/<domain>/<algorithm>/buffer`.
        sha256: of the archive, in hexadecimal.
        server: where `<domain>/<algorithm>.zip` lies.
        progress: show progress bars.
        pause: waits that many seconds between attempts.

    Returns:
        the buffer's folder.

    Raises:
        ValueError: unknown names, a malformed SHA-256, a folder with episodes of another origin, no
            such file on the server, a wrong checksum, or a damaged archive.
        OSError: not enough disk space, no connection, one that broke off too often, or another
            process fetches the archive.
    """
    if domain not in DOMAINS:
        raise unknown("domain", domain, DOMAINS)
    if algorithm not in ALGORITHMS:
        raise unknown("algorithm", algorithm, ALGORITHMS)
    if sha256 and not re.fullmatch("[0-9a-fA-F]{64}", sha256):
        raise ValueError(f"sha256={sha256}: is no SHA-256; allowed: 64 hexadecimal digits")
    folder = Path(root) / domain / algorithm
    if _is_unpacked(folder, sha256):
        return folder / "buffer"
    _check_ours(folder)
    archive = folder.with_suffix(".zip")
    try:
        fetch(f"{server}/{domain}/{algorithm}.zip", archive, progress, pause)
        return _unpack_whole(archive, folder, sha256, progress)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        advice = "what arrived is kept, make room and run this again"
        raise OSError(f"{root}: {error.strerror}; {advice}") from None


def _is_unpacked(folder: Path, sha256: str | None) -> bool:
    """Tells whether a data set is unpacked, and refuses one of another archive than asked for.

    A data set whose episodes were removed counts as not unpacked.
    """
    if not (folder / _DONE).exists() or not any((folder / "buffer").glob("*.npz")):
        return False
    digest = (folder / _DONE).read_text().strip()
    if sha256 and digest != sha256.lower():
        raise ValueError(
            f"{folder}: is unpacked from an archive with SHA-256 {digest}, not {sha256}; "
            "remove it to start over"
        )
    return True


def is_half_unpacked(buffer: Path) -> bool:
    """Tells whether a buffer's archive is being unpacked, or was until that was interrupted."""
    return (buffer.parent / _STARTED).exists() and not (buffer.parent / _DONE).exists()


def _check_ours(folder: Path) -> None:
    """Refuses episodes that were not unpacked here: a collector may have an algorithm's name."""
    if not (folder / _STARTED).exists() and any((folder / "buffer").glob("*.npz")):
        raise ValueError(
            f"{folder / 'buffer'}: holds episodes that were not downloaded; "
            "choose another folder with root=<folder>"
        )


def _unpack_whole(archive: Path, folder: Path, sha256: str | None, progress: bool) -> Path:
    """Checks and unpacks a whole archive, and removes it, unless another process has done so."""
    folder.mkdir(parents=True, exist_ok=True)
    started = folder / _STARTED
    with started.open("w") as stream:
        wait_for_lock(stream, fcntl.LOCK_EX)
        if not _is_unpacked(folder, sha256):
            try:
                digest = _digest(archive, progress)
                if sha256 and digest != sha256.lower():
                    raise _unusable(archive, f"SHA-256 is {digest}, expected {sha256}")
                (folder / _DONE).unlink(missing_ok=True)  # of episodes that were removed
                _unpack(archive, folder, progress)
            except ValueError:
                if not any((folder / "buffer").glob("*.npz")):
                    started.unlink(missing_ok=True)  # nothing is half unpacked
                raise
            (folder / _DONE).write_text(digest + "\n")
        archive.unlink(missing_ok=True)
        started.unlink(missing_ok=True)
    return folder / "buffer"


def _unusable(archive: Path, reason: str) -> ValueError:
    # It stays: somebody may have brought it by hand.
    return ValueError(f"{archive}: {reason}; it was kept, remove it to download it again")


def _digest(archive: Path, progress: bool) -> str:
    digest = hashlib.sha256()
    size = archive.stat().st_size
    with (
        archive.open("rb") as stream,
        progress_bar("checking", total=size, unit="B", show=progress) as bar,
    ):
        while block := stream.read(_BLOCK_BYTES):
            digest.update(block)
            bar.update(len(block))
    return digest.hexdigest()


def _unpack(archive: Path, folder: Path, progress: bool) -> None:
    """Unpacks the buffer's episodes, whatever folders the archive has around them."""
    buffer = folder / "buffer"
    buffer.mkdir(exist_ok=True)
    try:
        with zipfile.ZipFile(archive) as source:
            # Only the last part of a member's name counts, so none is unpacked elsewhere.
            members = {buffer / Path(member.filename).name: member for member in source.infolist()}
            members = {path: member for path, member in members.items() if path.suffix == ".npz"}
            if not members:
                raise _unusable(archive, "holds no episodes")
            # No member unpacks to more than the size that it states.
            new = (member.file_size for path, member in members.items() if not path.exists())
            check_space(buffer, sum(new))
            bar = progress_bar("unpacking", members.items(), unit="file", show=progress)
            for path, member in bar:
                partial = buffer / "unpacking.part"
                with source.open(member) as packed, partial.open("wb") as out:
                    shutil.copyfileobj(packed, out, _BLOCK_BYTES)
                partial.replace(path)
    except (zipfile.BadZipFile, EOFError, zlib.error, NotImplementedError, RuntimeError) as error:
        raise _unusable(archive, f"damaged ({error})") from error
    except OSError as error:
        if error.errno != errno.EINVAL:  # a damaged table of contents points before the file
            raise
        raise _unusable(archive, f"damaged ({error})") from error
