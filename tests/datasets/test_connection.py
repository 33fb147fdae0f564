"""Without a connection a download ends at once, in one line that says what to do."""

import errno
import os
import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from test_download import ARCHIVE, Server, fetch

from datasets.download import download
from datasets.episode import episode_files


def never(seconds):
    raise AssertionError("waited to try again")


def refused(root, url, pause=never):
    """Returns the one line that `download` ends with."""
    with pytest.raises((ValueError, OSError)) as told:
        download("walker", "rnd", root, server=url, progress=False, pause=pause)
    message = str(told.value)
    assert "\n" not in message
    assert told.value.__cause__ is None  # nothing is chained to it
    assert told.value.__context__ is None or told.value.__suppress_context__
    return message


@pytest.fixture
def closed_port():
    """A port that is taken, so that nobody else listens there, and refuses connections."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


class Answers:
    """Serves any request with a function of the handler."""

    def __init__(self, answer):
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            do_GET = do_CONNECT = answer

            def log_message(self, *arguments):
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_port

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *error):
        self._server.shutdown()
        self._server.server_close()


@pytest.mark.parametrize("code", [socket.EAI_AGAIN, socket.EAI_NONAME])
def test_no_network(code, tmp_path, monkeypatch):
    """The server's name cannot be looked up; nothing is left behind."""

    def fail(*arguments, **options):
        raise socket.gaierror(code, "no answer")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    message = refused(tmp_path, "http://example.org/exorl")
    assert message.startswith("http://example.org/exorl/walker/rnd.zip: cannot be reached: ")
    assert "no answer" in message
    assert f"bring the file to {tmp_path / 'walker' / 'rnd.zip'}" in message
    assert not list(tmp_path.iterdir())


def test_nobody_listens(tmp_path, closed_port):
    assert "cannot be reached: " in refused(tmp_path, f"http://127.0.0.1:{closed_port}")
    assert not list(tmp_path.iterdir())


def test_no_secure_connection(tmp_path):
    """A server that speaks no TLS stands for one with a wrong certificate."""
    with Server([]) as server:
        assert "cannot be reached: [SSL" in refused(tmp_path, server.url.replace("http:", "https:"))


@pytest.mark.parametrize("code", [401, 403, 404, 407, 451])
def test_refusals_are_not_tried_again(code, tmp_path):
    with Server([code]) as server:
        message = refused(tmp_path, server.url)
        assert f"the server answers {code}" in message and "bring the file to" in message
        assert len(server.requests) == 1
    assert not list(tmp_path.iterdir())


def test_too_many_requests_are_tried_again(tmp_path):
    with Server([429, 408]) as server:
        fetch(server, tmp_path)
        assert len(server.requests) == 3


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_refuses_is_named_and_its_password_is_not(
    scheme, tmp_path, closed_port, monkeypatch
):
    monkeypatch.setenv("no_proxy", "")
    with Answers(lambda handler: handler.send_error(407)) as proxy:
        monkeypatch.setenv(f"{scheme}_proxy", f"http://user:secret@127.0.0.1:{proxy.port}")
        message = refused(tmp_path, f"{scheme}://example.org/exorl")
    assert "407" in message and "secret" not in message
    monkeypatch.setenv(f"{scheme}_proxy", f"http://user:secret@127.0.0.1:{closed_port}")
    message = refused(tmp_path, f"{scheme}://example.org/exorl")
    assert f"through the proxy of {scheme}_proxy" in message and "secret" not in message


def test_a_login_page_is_no_archive(tmp_path):
    """Portals of networks send a page of unknown length."""

    def page(handler):
        handler.send_response(200)
        handler.send_header("Content-Type", "text/html")
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        handler.wfile.write(b"5\r\nlogin\r\n0\r\n\r\n")

    with Answers(page) as server:
        message = refused(tmp_path, f"http://127.0.0.1:{server.port}")
    assert "does not say how long the file is (text/html)" in message


def test_a_network_that_goes_away_midway(tmp_path):
    """It may come back, so the download waits, and keeps what arrived.

    A later call that finds no network ends at once.
    """
    waited = []
    with Server(["drops"]) as server:
        url = server.url

        def leave(seconds):
            if not waited:
                server._server.shutdown()
                server._server.server_close()
            waited.append(seconds)

        message = refused(tmp_path, url, pause=leave)
    assert "times in a row; what arrived is kept, run this again to go on" in message
    assert len(waited) == 8
    part = tmp_path / "walker" / "rnd.zip.part"
    assert part.stat().st_size == len(ARCHIVE) // 3
    assert "cannot be reached" in refused(tmp_path, url)
    with Server([]) as server:
        fetch(server, tmp_path)
        assert server.requests == [f"bytes={len(ARCHIVE) // 3}-"]


def test_an_archive_brought_by_hand_is_taken(tmp_path, closed_port):
    archive = tmp_path / "walker" / "rnd.zip"
    archive.parent.mkdir()
    archive.write_bytes(ARCHIVE)
    url = f"http://127.0.0.1:{closed_port}"
    buffer = download("walker", "rnd", tmp_path, server=url, progress=False, pause=never)
    assert len(episode_files(buffer)) == 3
    assert not archive.exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk(tmp_path):
    """The disk may fill up after the transfer has started."""
    part = tmp_path / "walker" / "rnd.zip.part"
    part.parent.mkdir()
    part.symlink_to("/dev/full")
    with Server([]) as server:
        message = refused(tmp_path, server.url)
    assert message.startswith(str(tmp_path)) and "make room and run this again" in message
    assert os.strerror(errno.ENOSPC) in message
