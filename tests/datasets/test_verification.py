"""`verify` reads every file and says what is wrong with which."""

from dataclasses import replace

import numpy as np
from fabricated import make_episode

import datasets
from datasets.verification import verify


def test_a_good_buffer(buffer):
    """There is nothing to report."""
    report = verify(buffer, progress=False)
    assert (report.episodes, report.transitions, report.problems, report.remarks) == (
        12,
        240,
        {},
        [],
    )


def test_every_problem_is_named(buffer):
    """Damage, unusual sizes, a row 0 that is no reset, large actions and early ends."""
    (buffer / "episode_000001_20.npz").write_bytes(b"")
    datasets.write_episode(buffer, 12, make_episode(15))
    datasets.write_episode(
        buffer, 3, replace(make_episode(), action=np.full((21, 6), 0.5, np.float32))
    )
    wild = make_episode().action.copy()
    wild[4] = 3
    datasets.write_episode(buffer, 5, replace(make_episode(), action=wild))
    datasets.write_episode(
        buffer, 6, replace(make_episode(), discount=np.zeros((21, 1), np.float32))
    )
    problems = verify(buffer, progress=False).problems
    assert set(problems) == {
        f"episode_{index}.npz"
        for index in ("000001_20", "000012_15", "000003_20", "000005_20", "000006_20")
    }
    assert "not a readable episode" in problems["episode_000001_20.npz"]
    assert "most files have" in problems["episode_000012_15.npz"]
    assert "not a reset" in problems["episode_000003_20.npz"]
    assert "outside [-1, 1]" in problems["episode_000005_20.npz"]
    assert "never terminate" in problems["episode_000006_20.npz"]


def test_variants_are_remarks(tmp_path):
    """Missing physics and four reward columns are remarks and no problems."""
    for index in range(2):
        datasets.write_episode(tmp_path, index, make_episode(20, index, physics=False, columns=4))
    report = verify(tmp_path, "walker", progress=False)
    assert report.problems == {}
    assert len(report.remarks) == 2
