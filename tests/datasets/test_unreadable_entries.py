"""Entries with an episode's name that are no readable file are named in one line."""

import os

import pytest
from fabricated import make_buffer, make_episode

import datasets
from datasets.episode import BadEpisode, read_episode
from datasets.verification import verify

NAME = "episode_000500_3.npz"


def to_nothing(path):
    path.symlink_to("removed.npz")


def to_itself(path):
    path.symlink_to(path.name)


def folder(path):
    path.mkdir()


def pipe(path):
    os.mkfifo(path)


def forbidden(path):
    datasets.write_episode(path.parent, 500, make_episode(3))


UNREADABLE = [to_nothing, to_itself, folder, pipe, forbidden]


@pytest.fixture
def unreadable(tmp_path, request, monkeypatch):
    """Three good episodes and an entry that cannot be read."""
    buffer = make_buffer(tmp_path / "buffer", 3, length=3)
    request.param(buffer / NAME)
    if request.param is forbidden:  # the tests may run as root, who may read everything
        opened = datasets.episode.zipfile.ZipFile

        def refuse(path, *arguments):
            if path.name == NAME:
                raise PermissionError(13, "Permission denied", str(path))
            return opened(path, *arguments)

        monkeypatch.setattr("datasets.episode.zipfile.ZipFile", refuse)
    return buffer


@pytest.mark.parametrize("unreadable", UNREADABLE, indirect=True, ids=lambda make: make.__name__)
def test_an_unreadable_entry_is_named(unreadable):
    with pytest.raises(BadEpisode, match=f"{NAME}: not a readable episode") as error:
        datasets.build_cache(unreadable, progress=False)
    assert "\n" not in str(error.value)
    assert list(verify(unreadable, progress=False).problems) == [NAME]


def test_links_to_episodes_are_episodes(tmp_path):
    """Some data sets are put together from others by links."""
    source = make_buffer(tmp_path / "source", 2)
    linked = tmp_path / "linked"
    linked.mkdir()
    for path in source.iterdir():
        (linked / path.name).symlink_to(path)
    assert datasets.Store(datasets.build_cache(linked, progress=False)).episodes == 2


@pytest.mark.parametrize("when", ["before it is read", "once cached"])
def test_an_episode_that_vanishes(buffer, monkeypatch, when):
    """If a file goes while the cache is built, it is named, or the cache built without it."""
    last = sorted(buffer.iterdir())[-1]
    if when == "once cached":
        datasets.build_cache(buffer, progress=False)
        last.rename(buffer / "aside")
        last.symlink_to("removed.npz")
    else:
        monkeypatch.setattr(
            "datasets.cache.read_episode",
            lambda path: last.unlink(missing_ok=True) or read_episode(path),
        )
    with pytest.raises(
        BadEpisode, match=rf"{last.name}: not a readable episode \((gone|a link to nothing)\)"
    ):
        datasets.build_cache(buffer, progress=False)
    last.unlink(missing_ok=True)
    assert datasets.Store(datasets.build_cache(buffer, progress=False)).episodes == 11
