"""Downloads come whole from a faulty server, which drops, truncates, restarts or refuses."""

import hashlib
import io
import shutil
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from fabricated import make_episode

import datasets.download as download_module
from agentic_transformer.config import DataConfig
from agentic_transformer.contexts.training_data import open_store
from datasets.download import download
from datasets.episode import episode_files, read_episode
from datasets.resumable_transfer import fetch as transfer


def archive():
    """Packs a small release as ExoRL does: three episodes and a video."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as out:
        for index in range(3):
            episode = io.BytesIO()
            np.savez_compressed(episode, **vars(make_episode(50, index)))
            out.writestr(f"walker/rnd/buffer/episode_{index:06d}_50.npz", episode.getvalue())
        out.writestr("walker/rnd/video/0.mp4", b"film")
    return packed.getvalue()


ARCHIVE = archive()


class Server:
    """Serves ARCHIVE at any path.

    `faults` has one fault for each request; later requests are served well. One that is an Event
    holds the second half back until it is set. `version` are headers that tell one; a server with
    `heeds=False` takes no notice of If-Range.
    """

    def __init__(self, faults, content=ARCHIVE, version=None, heeds=True):
        self.requests = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                ranged, asked = self.headers.get("Range"), self.headers.get("If-Range")
                server.requests.append(ranged)
                if heeds and asked and asked not in (version or {}).values():
                    ranged = None
                fault = faults.pop(0) if faults else None
                if isinstance(fault, int):
                    self.send_error(fault)
                    return
                start = (
                    int(ranged.removeprefix("bytes=").rstrip("-"))
                    if ranged and fault != "ignores range"
                    else 0
                )
                if start >= len(content):
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{len(content)}")
                    self.end_headers()
                    return
                self.send_response(206 if ranged and fault != "ignores range" else 200)
                self.send_header("Content-Length", str(len(content) - start))
                for name, value in (version or {}).items():
                    self.send_header(name, value)
                self.end_headers()
                rest = content[start:]
                if isinstance(fault, threading.Event):
                    self.wfile.write(rest[: len(rest) // 2])
                    fault.wait(10)
                    rest = rest[len(rest) // 2 :]
                self.wfile.write(rest[: len(rest) // 3] if fault == "drops" else rest)

            def log_message(self, *arguments):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *error):
        self._server.shutdown()
        self._server.server_close()


def fetch(server, root, **options):
    """Downloads without waiting or progress bars."""
    return download(
        "walker",
        "rnd",
        root,
        server=server.url,
        progress=False,
        pause=lambda seconds: None,
        **options,
    )


@pytest.mark.parametrize(
    ("faults", "requests"),
    [
        ([], 1),
        (["drops", "drops"], 3),
        (["drops"] * 10, 11),  # each brings something, so it goes on beyond eight attempts
        (["drops", "ignores range"], 2),
        ([503, "drops", 502], 4),
    ],
    ids=["good", "drops", "drops often", "starts over", "overloaded"],
)
def test_arrives_whole(tmp_path, faults, requests):
    """A broken transfer goes on at the next byte, and the episodes are the server's."""
    with Server(list(faults)) as server:  # which takes each fault out of its list
        buffer = fetch(server, tmp_path)
        assert len(server.requests) == requests
        assert fetch(server, tmp_path) == buffer  # a second call finds it done
        assert len(server.requests) == requests
    if faults == ["drops", "drops"]:
        assert server.requests[1] == f"bytes={len(ARCHIVE) // 3}-"
    assert buffer == tmp_path / "walker" / "rnd" / "buffer"
    files = episode_files(buffer)
    assert len(files) == 3
    np.testing.assert_array_equal(read_episode(files[2]).physics, make_episode(50, 2).physics)
    assert (buffer.parent / ".complete").read_text().strip() == hashlib.sha256(ARCHIVE).hexdigest()
    assert list(tmp_path.rglob("*.part")) + list(tmp_path.rglob("*.zip")) == []


def test_a_later_call_goes_on(tmp_path):
    """What arrived before the download gave up is kept."""
    with (
        Server(["drops", *[503] * 20]) as server,
        pytest.raises(ConnectionError, match="run this again"),
    ):
        fetch(server, tmp_path)
    with Server([]) as server:
        fetch(server, tmp_path)
        assert server.requests == [f"bytes={len(ARCHIVE) // 3}-"]


@pytest.mark.parametrize("heeds", [True, False])
@pytest.mark.parametrize("name", ["ETag", "Last-Modified"])
@pytest.mark.parametrize("same", [True, False])
def test_a_part_goes_on_with_the_version_that_it_is_of_alone(name, heeds, same, tmp_path):
    """Halves of two versions are never joined, though their checksums inside may not tell."""
    earlier = ARCHIVE[:30] + b"another version" + ARCHIVE[45:]
    first = Server(["drops", *[503] * 20], earlier, {name: '"1"'})
    with first as server, pytest.raises(ConnectionError):
        fetch(server, tmp_path)
    content, number = (earlier, '"1"') if same else (ARCHIVE, '"2"')
    target = tmp_path / "walker" / "rnd.zip"
    with Server([], content, {name: number}, heeds) as server:
        transfer(f"{server.url}/walker/rnd.zip", target, False, lambda seconds: None)
        assert len(server.requests) == (1 if same or heeds else 2)
    assert target.read_bytes() == content
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize(("more", "requests"), [(b"", 1), (b"of a longer file", 2)])
def test_a_file_that_arrived_is_taken_and_one_that_is_too_long_begins_anew(
    more, requests, tmp_path
):
    """A kill came before the file got its name, or the server has a shorter file now."""
    part = tmp_path / "walker" / "rnd.zip.part"
    part.parent.mkdir()
    part.write_bytes(ARCHIVE + more)
    with Server([]) as server:
        buffer = fetch(server, tmp_path)
        assert len(server.requests) == requests
    assert (buffer.parent / ".complete").read_text().strip() == hashlib.sha256(ARCHIVE).hexdigest()


def test_wrong_content(tmp_path):
    """A wrong SHA-256, a flipped bit, and a page instead of an archive are refused."""
    with Server([]) as server, pytest.raises(ValueError, match="SHA-256 is"):
        fetch(server, tmp_path / "other", sha256="0" * 64)
    # Nothing of it is there, so a collector may use the folder.
    refused = tmp_path / "other" / "walker" / "rnd" / "buffer"
    assert not download_module.is_half_unpacked(refused)
    damaged = bytearray(ARCHIVE)
    damaged[len(damaged) // 2] ^= 1
    archive = tmp_path / "walker" / "rnd.zip"
    for content in (bytes(damaged), b"<html>gone</html>"):
        with Server([], content) as server, pytest.raises(ValueError, match=r"rnd\.zip: damaged"):
            fetch(server, tmp_path)
        archive.unlink()
    with Server([]) as server:
        assert len(episode_files(fetch(server, tmp_path))) == 3


def test_damage_anywhere_in_an_archive_is_told(tmp_path):
    """Each place makes Python's reader of archives fail in another way."""
    packed, archive = io.BytesIO(), tmp_path / "walker" / "rnd.zip"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("buffer/episode_000000_50.npz", b"episode " * 100)
    content = packed.getvalue()
    table, end = content.index(b"PK\x01\x02"), content.index(b"PK\x05\x06")
    archive.parent.mkdir()
    # The compressed episode; in the table of contents its version, its flag that says it is
    # encrypted, its method; then how long the table is, and the marks of table and end.
    for place in (60, table + 6, table + 8, table + 10, end + 14, table, end):
        damaged = bytearray(content)
        damaged[place] ^= 0x41
        archive.write_bytes(damaged)
        said = r"rnd\.zip: damaged \(.*\); it was kept, remove it to download it again"
        with pytest.raises(ValueError, match=said):
            download("walker", "rnd", tmp_path, progress=False)
        assert archive.read_bytes() == damaged


def test_an_archive_without_episodes_is_told(tmp_path):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as out:
        out.writestr("walker/rnd/video/0.mp4", b"film")
    with Server([], packed.getvalue()) as server, pytest.raises(ValueError, match="no episodes"):
        fetch(server, tmp_path)


def test_a_data_set_whose_episodes_were_removed_is_fetched_again(tmp_path):
    with Server([]) as server:
        buffer = fetch(server, tmp_path)
        shutil.rmtree(buffer)
        assert len(episode_files(fetch(server, tmp_path))) == 3
        assert len(server.requests) == 2


def test_an_archive_of_another_content_is_kept(tmp_path):
    """Somebody may have brought it by hand; with the right SHA-256 it is unpacked."""
    archive = tmp_path / "walker" / "rnd.zip"
    archive.parent.mkdir()
    archive.write_bytes(ARCHIVE)
    digest = hashlib.sha256(ARCHIVE).hexdigest()
    with Server([]) as server:
        for wrong, says in ((digest[:8], "allowed: 64 hexadecimal digits"), ("0" * 64, "was kept")):
            with pytest.raises(ValueError, match=says):
                fetch(server, tmp_path, sha256=wrong)
            assert archive.read_bytes() == ARCHIVE
        fetch(server, tmp_path, sha256=digest)
        assert server.requests == []


def test_a_second_download_of_what_is_being_fetched_is_refused(tmp_path):
    """It writes nothing into the archive of the first, which arrives whole."""
    rest, part = threading.Event(), tmp_path / "walker" / "rnd.zip.part"
    with Server([rest]) as server, ThreadPoolExecutor(1) as other:
        first = other.submit(fetch, server, tmp_path)
        while not (part.exists() and part.stat().st_size):
            assert not first.done()
        with pytest.raises(OSError, match=r"rnd\.zip\.part: another process writes it now"):
            fetch(server, tmp_path)
        rest.set()
        assert len(episode_files(first.result())) == 3


def test_of_two_downloads_at_once_one_unpacks(tmp_path, monkeypatch):
    """The other waits: while a file is copied, no other process copies one."""
    archive = tmp_path / "walker" / "rnd.zip"
    archive.parent.mkdir()
    archive.write_bytes(ARCHIVE)
    copies, copy, begun = [], shutil.copyfileobj, threading.Event()

    def slow_copy(packed, out, size):
        copies.append(packed.name)
        if not begun.is_set():
            begun.set()
            time.sleep(0.2)  # time enough for the other to interfere
        copy(packed, out, size)

    monkeypatch.setattr(download_module.shutil, "copyfileobj", slow_copy)
    with Server([]) as server, ThreadPoolExecutor(1) as other:
        first = other.submit(fetch, server, tmp_path)
        begun.wait()
        assert fetch(server, tmp_path) == first.result()
    assert len(copies) == len(episode_files(first.result())) == 3
    assert [path.name for path in (tmp_path / "walker").rglob(".*")] == [".complete"]


def test_what_is_half_unpacked_counts_neither_as_unpacked_nor_as_data(tmp_path, monkeypatch):
    """Also where episodes that had been unpacked whole were removed before."""
    copy, config = shutil.copyfileobj, DataConfig(root=str(tmp_path), algo="rnd")

    def interrupted(packed, out, size):
        if packed.name.endswith("1_50.npz"):
            with pytest.raises(ValueError, match="not all episodes of .*rnd/buffer are unpacked"):
                open_store("walker_run", config)
            raise KeyboardInterrupt
        copy(packed, out, size)

    with Server([]) as server:
        for episode in episode_files(fetch(server, tmp_path)):
            episode.unlink()
        with monkeypatch.context() as patched:
            patched.setattr(download_module.shutil, "copyfileobj", interrupted)
            with pytest.raises(KeyboardInterrupt):
                fetch(server, tmp_path)
        with pytest.raises(ValueError, match="`python -m experiments.download domain=walker"):
            open_store("walker_run", config)
        assert len(episode_files(fetch(server, tmp_path))) == 3
    assert not download_module.is_half_unpacked(tmp_path / "walker" / "rnd" / "buffer")


@pytest.mark.parametrize(
    "name",
    ["../../escaped.npz", "/escaped.npz", "..\\escaped.npz", "buffer/../../../../escaped.npz"],
)
def test_an_archive_writes_into_its_buffer_alone(tmp_path, name):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as out:
        out.writestr(name, b"episode")
        link = zipfile.ZipInfo("buffer/link.npz")
        link.external_attr = 0o120777 << 16  # a symbolic link, if one believes it
        out.writestr(link, str(tmp_path / "escaped.npz"))
    with Server([], packed.getvalue()) as server:
        buffer = fetch(server, tmp_path / "root")
    written = [path for path in tmp_path.rglob("*") if not path.is_dir()]
    assert {path.parent for path in written if path.name != ".complete"} == {buffer} and len(
        written
    ) == 3
    assert not any(path.is_symlink() for path in written)


def test_an_archive_that_unpacks_to_more_than_the_disk_holds_is_not_unpacked(tmp_path, monkeypatch):
    """The archive, a thousandth of its contents, is kept for a disk with more room."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("buffer/episode_000000_50.npz", bytes(2_000_000))
    usage = type("Usage", (), {"free": 1_000_000})
    monkeypatch.setattr(download_module.shutil, "disk_usage", lambda folder: usage)
    with Server([], packed.getvalue()) as server, pytest.raises(OSError, match="GB are needed"):
        fetch(server, tmp_path)
    assert list(tmp_path.rglob("*.npz")) == [] and list(tmp_path.rglob("*.zip"))


def test_nothing_is_fetched_without_room_for_the_archive_and_its_contents(tmp_path, monkeypatch):
    """A part that is there needs no more room, but its contents do."""
    part = tmp_path / "walker" / "rnd.zip.part"
    part.parent.mkdir()
    half = len(ARCHIVE) // 2
    part.write_bytes(ARCHIVE[:half])
    needed = len(ARCHIVE) - half + 1.25 * len(ARCHIVE)
    usage = type("Usage", (), {"free": needed - 1})
    monkeypatch.setattr(download_module.shutil, "disk_usage", lambda folder: usage)
    with Server([]) as server:
        with pytest.raises(OSError, match=r"\(archive and its contents\)"):
            fetch(server, tmp_path)
        assert part.stat().st_size == half
        usage.free = needed
        assert len(episode_files(fetch(server, tmp_path))) == 3


def test_nothing_of_another_origin_is_touched(tmp_path):
    """Collected episodes in an algorithm's folder stay; another archive's SHA-256 is refused."""
    buffer = tmp_path / "walker" / "rnd" / "buffer"
    buffer.mkdir(parents=True)
    (buffer / "episode_000000_50.npz").write_bytes(b"collected")
    with Server([]) as server, pytest.raises(ValueError, match="downloaded; .* root=<"):
        fetch(server, tmp_path)
    assert [path.read_bytes() for path in tmp_path.rglob("*.npz")] == [b"collected"]
    with Server([]) as server:
        fetch(server, tmp_path / "fresh")
        fetch(server, tmp_path / "fresh", sha256=hashlib.sha256(ARCHIVE).hexdigest().upper())
        with pytest.raises(ValueError, match="not 0000"):
            fetch(server, tmp_path / "fresh", sha256="0" * 64)


def test_refusals(tmp_path, monkeypatch):
    """Unknown names, a file that the server lacks, and a full disk are refused."""
    with pytest.raises(ValueError, match="nearest match: 'walker'"):
        download("wakler", "rnd", tmp_path)
    with pytest.raises(ValueError, match="algorithm 'rdn'"):
        download("walker", "rdn", tmp_path)
    with Server([404]) as server, pytest.raises(ValueError, match="answers 404"):
        fetch(server, tmp_path)
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(download_module.shutil, "disk_usage", lambda folder: usage)
    with Server([]) as server, pytest.raises(OSError, match="GB are needed"):
        fetch(server, tmp_path)
