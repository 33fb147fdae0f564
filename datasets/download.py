"""Fetches ExoRL's archives: resumes, checks, unpacks."""

from __future__ import annotations

import errno
import hashlib
import shutil
import ssl
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlsplit

from tqdm import tqdm

from envs.registry import unknown

SERVER = "https://dl.fbaipublicfiles.com/exorl"
DOMAINS = ("cartpole", "cheetah", "jaco", "point_mass_maze", "quadruped", "walker")
ALGORITHMS = ("aps", "icm_apt", "diayn", "disagreement", "icm", "proto", "random", "rnd", "smm")
_STARTED = ".unfinished"  # in a data set's folder until it is unpacked
_DONE = ".complete"  # holds the archive's SHA-256
_BLOCK = 1 << 20
_TIMEOUT = 10  # seconds without a connection, or without a byte
_ATTEMPTS = 8  # in a row without progress
_BROKEN = (urllib.error.URLError, HTTPException, TimeoutError, ConnectionError, ssl.SSLError)
_LATER = (408, 425, 429)  # answers that ask for another attempt
_UNPACKED = 1.25  # of the archive's size, at most: the episodes inside are compressed already


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
    """Fetch and unpack one data set.

    A transfer that breaks off goes on where it stopped, within this call and in a later one. A
    server that cannot be reached in the first place ends the call at once. An archive that was
    brought to `<root>/<domain>/<algorithm>.zip` by hand is taken. The archive's own checksums are
    always verified; its SHA-256 is kept in `.complete`, and compared where given (the release
    publishes none).

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
        ValueError: unknown names, a folder with episodes of another origin, no such file on the
            server, a wrong checksum, or a damaged archive (which is removed).
        OSError: not enough disk space, no connection, or one that broke off too often.
    """
    if domain not in DOMAINS:
        raise unknown("domain", domain, DOMAINS)
    if algorithm not in ALGORITHMS:
        raise unknown("algorithm", algorithm, ALGORITHMS)
    folder = Path(root) / domain / algorithm
    done = folder / _DONE
    if done.exists():
        if sha256 and (digest := done.read_text().strip()) != sha256.lower():
            raise ValueError(
                f"{folder}: is unpacked from an archive with SHA-256 {digest}, not {sha256}; remove it to start over"
            )
        return folder / "buffer"
    _refuse_other(folder)
    archive = folder.with_suffix(".zip")
    try:
        _fetch(f"{server}/{domain}/{algorithm}.zip", archive, progress, pause)
        return _open(archive, folder, sha256, progress)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        said = f"{error.strerror}; what arrived is kept, make room and run this again"
        raise OSError(f"{root}: {said}") from None


def _open(archive: Path, folder: Path, sha256: str | None, progress: bool) -> Path:
    """Check and unpack a whole archive, and remove it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _STARTED).touch()
    digest = _digest(archive, progress)
    if sha256 and digest != sha256.lower():
        archive.unlink()
        raise ValueError(
            f"{archive}: SHA-256 is {digest}, expected {sha256}; the file was removed, download it again"
        )
    _unpack(archive, folder, progress)
    (folder / _DONE).write_text(digest + "\n")
    archive.unlink()
    (folder / _STARTED).unlink()
    return folder / "buffer"


def _refuse_other(folder: Path) -> None:
    """Episodes that were not unpacked here stay as they are: a collector may have the name of an
    algorithm.
    """
    if not (folder / _STARTED).exists() and any((folder / "buffer").glob("*.npz")):
        raise ValueError(
            f"{folder / 'buffer'}: holds episodes that were not downloaded; choose another data.root"
        )


class _Refused(ValueError):
    """An answer that another attempt would not change."""


def _fetch(url: str, target: Path, progress: bool, pause: Callable[[float], None]) -> None:
    """Bring all of `url` to `target`, through `<target>.part`."""
    if target.exists():
        return
    part = target.with_name(target.name + ".part")
    by_hand = f"mend that, or bring the file to {target} by other means; then run this again"
    reached, failures = False, 0
    if progress:
        tqdm.write(f"connecting to {url}")
    while True:
        before = _size(part)
        try:
            if _transfer(url, part, progress):
                part.replace(target)
                return
            problem, reached = "the connection closed early", True
        except _Refused as error:
            raise ValueError(f"{url}: {error}; {by_hand}") from None
        except urllib.error.HTTPError as error:
            problem, reached = f"the server answers {error.code} {error.reason}", True
            if error.code < 500 and error.code not in _LATER:
                raise ValueError(f"{url}: {problem}; {by_hand}") from None
        except _BROKEN as error:
            said = str(getattr(error, "reason", None) or error)
            problem = " ".join(said.split()) or type(error).__name__
        after = _size(part)
        reached = reached or after > before
        if not reached:
            raise ConnectionError(f"{url}: cannot be reached{_proxy(url)}: {problem}; {by_hand}")
        failures = 1 if after > before else failures + 1
        if failures > _ATTEMPTS:
            said = f"{problem}, {_ATTEMPTS} times in a row"
            raise ConnectionError(f"{url}: {said}; what arrived is kept, run this again to go on")
        tqdm.write(f"{url}: {problem}; going on at byte {after}")
        pause(min(30.0, 0.5 * 2**failures))


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _proxy(url: str) -> str:
    """Names the variable of the proxy in between, if any; its address may hold a password."""
    scheme, host = urlsplit(url)[:2]
    if scheme not in urllib.request.getproxies() or urllib.request.proxy_bypass(host):
        return ""
    return f" through the proxy of {scheme}_proxy"


def _transfer(url: str, part: Path, progress: bool) -> bool:
    """One connection; True when the file is whole."""
    have = _size(part)
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        # An opener of our own: the common one keeps the proxies of the process's first request.
        answer = urllib.request.build_opener().open(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have and _total(error) == have:  # nothing is left to send
            return True
        if error.code == 416:
            part.unlink()
            return False
        raise
    with answer:
        resumed = answer.status == 206
        if have and not resumed:  # the server starts over, so do we
            have = 0
        if not (answer.headers["Content-Length"] or "").isdigit():
            kind = answer.headers.get_content_type()
            raise _Refused(f"the server does not say how long the file is ({kind})")
        size = have + int(answer.headers["Content-Length"])
        part.parent.mkdir(parents=True, exist_ok=True)
        _check_space(part.parent, size - have + size * _UNPACKED)
        label = part.name.removesuffix(".part")
        with (
            part.open("ab" if resumed else "wb") as stream,
            tqdm(
                total=size,
                initial=have,
                desc=label,
                unit="B",
                unit_scale=True,
                disable=not progress,
                mininterval=0.5,
            ) as bar,
        ):
            while block := answer.read1(_BLOCK):
                stream.write(block)
                bar.update(len(block))
        return part.stat().st_size == size


def _total(error: urllib.error.HTTPError) -> int | None:
    """The file's size from `Content-Range: bytes */<size>`."""
    size = (error.headers.get("Content-Range") or "").rpartition("/")[2]
    return int(size) if size.isdigit() else None


def _check_space(folder: Path, needed: float) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            f"{folder}: {needed / 1e9:.1f} GB are needed (archive and its contents), {free / 1e9:.1f} GB are free"
        )


def _digest(archive: Path, progress: bool) -> str:
    digest = hashlib.sha256()
    size = archive.stat().st_size
    with (
        archive.open("rb") as stream,
        tqdm(
            total=size,
            desc="checking",
            unit="B",
            unit_scale=True,
            disable=not progress,
            mininterval=0.5,
        ) as bar,
    ):
        while block := stream.read(_BLOCK):
            digest.update(block)
            bar.update(len(block))
    return digest.hexdigest()


def _unpack(archive: Path, folder: Path, progress: bool) -> None:
    """Unpack the buffer's episodes, whatever folders the archive wraps them in."""
    buffer = folder / "buffer"
    buffer.mkdir(exist_ok=True)
    try:
        with zipfile.ZipFile(archive) as source:
            members = {buffer / Path(member.filename).name: member for member in source.infolist()}
            members = {path: member for path, member in members.items() if path.suffix == ".npz"}
            # No member unpacks to more than the size that it states.
            _check_space(
                buffer,
                sum(member.file_size for path, member in members.items() if not path.exists()),
            )
            for path, member in tqdm(
                members.items(),
                desc="unpacking",
                unit="file",
                disable=not progress,
                mininterval=0.5,
            ):
                partial = buffer / "unpacking.part"
                with source.open(member) as packed, partial.open("wb") as out:
                    shutil.copyfileobj(packed, out, _BLOCK)
                partial.replace(path)
    except (zipfile.BadZipFile, EOFError) as error:
        archive.unlink()
        raise ValueError(
            f"{archive}: damaged ({error}); the file was removed, download it again"
        ) from error
