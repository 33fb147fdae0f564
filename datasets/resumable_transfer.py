"""Brings a file from a web server; a transfer that breaks off goes on where it stopped."""

from __future__ import annotations

import fcntl
import shutil
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.parse import urlsplit

from tqdm import tqdm

from datasets.locks import flock
from datasets.progress import progress_bar

_BLOCK_BYTES = 1 << 20
_TIMEOUT = 10  # seconds without a connection, or without a byte
_ATTEMPTS = 8  # in a row without progress
_BROKEN = (urllib.error.URLError, HTTPException, TimeoutError, ConnectionError, ssl.SSLError)
_TRY_LATER = (408, 425, 429)  # status codes that ask for another attempt
_UNPACKED = 1.25  # of the archive's size, at most: the episodes inside are compressed already


class _Refused(ValueError):
    """Says that another attempt would get the same answer."""


def fetch(url: str, target: Path, progress: bool, pause: Callable[[float], None]) -> None:
    """Brings all of `url` to `target`, through `<target>.part`; an existing target is kept.

    A part is continued only with the version of the file that it began with, if the server tells
    versions.

    Args:
        url: of the file.
        target: where it shall lie.
        progress: show a progress bar.
        pause: waits that many seconds between attempts.

    Raises:
        ValueError: the server has no such file, or does not say how long it is.
        ConnectionError: the server cannot be reached, or the connection broke off too often.
        OSError: not enough disk space, or another process fetches the same file.
    """
    if target.exists():
        return
    part = target.with_name(target.name + ".part")
    by_hand = f"repair that, or bring the file to {target} by other means; then run this again"
    reached, failures = False, 0
    if progress:
        tqdm.write(f"connecting to {url}")
    while True:
        before = _size(part)
        try:
            if _transfer(url, part, progress):
                part.replace(target)
                _version_file(part).unlink(missing_ok=True)
                return
            problem, reached = "the connection closed early", True
        except _Refused as error:
            raise ValueError(f"{url}: {error}; {by_hand}") from None
        except BlockingIOError:
            busy = "another process writes it now; run this again when that has ended"
            raise OSError(f"{part}: {busy}") from None
        except urllib.error.HTTPError as error:
            problem, reached = f"the server answers {error.code} {error.reason}", True
            if error.code < 500 and error.code not in _TRY_LATER:
                raise ValueError(f"{url}: {problem}; {by_hand}") from None
        except _BROKEN as error:
            reason = str(getattr(error, "reason", None) or error)
            problem = " ".join(reason.split()) or type(error).__name__
        after = _size(part)
        reached = reached or after > before
        if not reached:  # another attempt would fail in the same way
            raise ConnectionError(f"{url}: cannot be reached{_proxy(url)}: {problem}; {by_hand}")
        failures = 1 if after > before else failures + 1
        if failures > _ATTEMPTS:
            often = f"{problem}, {_ATTEMPTS} times in a row"
            raise ConnectionError(f"{url}: {often}; what arrived is kept, run this again to go on")
        tqdm.write(f"{url}: {problem}; going on at byte {after}")
        pause(min(30.0, 0.5 * 2**failures))


def check_space(folder: Path, needed: float) -> None:
    """Checks that the disk of `folder` has room for `needed` bytes.

    Raises:
        OSError: there is less.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        sizes = f"{needed / 1e9:.1f} GB are needed (archive and its contents)"
        raise OSError(f"{folder}: {sizes}, {free / 1e9:.1f} GB are free")


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _proxy(url: str) -> str:
    """Names the variable of the proxy in between, if any; its address may hold a password."""
    scheme, host = urlsplit(url)[:2]
    if scheme not in urllib.request.getproxies() or urllib.request.proxy_bypass(host):
        return ""
    return f" through the proxy of {scheme}_proxy"


def _transfer(url: str, part: Path, progress: bool) -> bool:
    """Appends to `part` what one connection brings; true when the file is whole."""
    have, version = _size(part), _version_file(part)
    headers = {"Range": f"bytes={have}-"} if have else {}
    known = version.read_text() if have and version.exists() else ""
    if known:  # if the file has another version now, the server sends all of it
        headers["If-Range"] = known
    request = urllib.request.Request(url, headers=headers)
    try:
        # An opener of our own: the common one keeps the proxies of the process's first request.
        answer = urllib.request.build_opener().open(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # the range starts at or after the end of the file
            if _total(error) == have:  # so nothing is left to send
                return True
            part.unlink()
            return False
        raise
    with answer:
        if answer.status == 206 and known and _version(answer) not in ("", known):
            part.unlink()  # the server heeds no If-Range
            return False
        return _receive(answer, part, have if answer.status == 206 else 0, progress)


def _receive(answer: HTTPResponse, part: Path, have: int, progress: bool) -> bool:
    """Writes an answer to `part`, after the `have` bytes that the server leaves out.

    Raises:
        BlockingIOError: another process writes there.
    """
    if not (answer.headers["Content-Length"] or "").isdigit():
        kind = answer.headers.get_content_type()
        raise _Refused(f"the server does not say how long the file is ({kind})")
    remaining = int(answer.headers["Content-Length"])
    size = have + remaining
    part.parent.mkdir(parents=True, exist_ok=True)
    check_space(part.parent, remaining + size * _UNPACKED)
    label = part.name.removesuffix(".part")
    with (
        part.open("ab") as stream,
        progress_bar(label, total=size, initial=have, unit="B", show=progress) as bar,
    ):
        flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        there = _size(part)
        if there < have:  # another process has finished it since the request
            return False
        if there > have:  # what comes now begins within it
            stream.truncate(have)
        if not have:
            _version_file(part).write_text(_version(answer))
        while block := answer.read1(_BLOCK_BYTES):
            stream.write(block)
            bar.update(len(block))
    return part.stat().st_size == size


def _version_file(part: Path) -> Path:
    """Returns the file that says of which version of the server's file a part is."""
    return part.with_name(part.name + ".version")


def _version(answer: HTTPResponse) -> str:
    """Returns what tells versions of a file apart, as `If-Range` takes it; empty if none."""
    tag = answer.headers["ETag"] or ""
    return tag if tag.startswith('"') else answer.headers["Last-Modified"] or ""


def _total(error: urllib.error.HTTPError) -> int | None:
    """Reads the file's size from `Content-Range: bytes */<size>`."""
    size = (error.headers.get("Content-Range") or "").rpartition("/")[2]
    return int(size) if size.isdigit() else None
