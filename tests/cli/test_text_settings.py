"""Text settings keep what was typed, wherever it goes: folders, config.yaml, a resumed run."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

# Hydra or YAML would read each as a number, a truth value, nothing, or not at all.
TEXTS = [
    "20260304_0506", "1.10", "1e3", "0x10", "007", "true", "No", "1_000", ".5", "-1", "nan", "inf",
    "12:30:45", "2026-03-04",
    "café", "日本", "a=b", "lr=1e-3", "a b", "#1", "a;b", "50%", "$HOME", "a&b", "~", "null",
]  # fmt: skip
QUOTED = {"~": "'~'", "null": "'null'"}


@pytest.mark.parametrize("text", TEXTS)
def test_a_folder_is_called_what_was_typed(text, forked):
    word = QUOTED.get(text, text)
    failed = forked(
        "train",
        f"run={word}",
        f"agent.name={'x' if not text.isalnum() else word}",
        does={"all": "crash"},
    )
    assert failed.code == 1, failed.stderr
    assert [path.name for path in forked.folder.iterdir()] == [text]
    assert OmegaConf.load(forked.folder / text / "config.yaml").run == text
    again = forked(
        "train", f"run={word}", "resume=true", f"agent.name={'x' if not text.isalnum() else word}"
    )
    assert again.code == 0 and again.calls[0]["run"] == text, again.stderr


@pytest.mark.slow
def test_text_in_lists_sweeps_and_functions(forked):
    listed = forked("plot", "runs=[1.10, 007,1e3,true,'a,b',\"it's\"]", "out=2.0")
    (call,) = listed.calls
    assert call["config"]["runs"] == ["1.10", "007", "1e3", "true", "a,b", "it's"], listed.stderr
    assert call["config"]["out"] == "2.0"
    for number, sweep in enumerate(
        ["1.10,1.20,2_0", "choice(1.10,1.20,2_0)", "shuffle(1.10,1.20,2_0)"]
    ):
        swept = forked("train", "-m", f"agent.name={sweep}", f"run={number}.0")
        assert sorted(call["config"]["agent"]["name"] for call in swept.calls) == [
            "1.10",
            "1.20",
            "2_0",
        ], swept.stderr
        configs = [
            OmegaConf.load(path) for path in (forked.folder / f"{number}.0").glob("*/config.yaml")
        ]
        assert sorted(config.agent.name for config in configs) == ["1.10", "1.20", "2_0"]


def test_null_means_none_only_where_a_setting_may_be_none(forked):
    unnamed = forked("train", "run=null", "mesh.coordinator=NULL")
    assert unnamed.code == 0 and unnamed.calls[0]["config"]["run"] is None
    assert unnamed.calls[0]["config"]["mesh"]["coordinator"] is None
    assert forked("collect", "data.root=null").code == 2
    assert forked("collect", "data.root='null'").calls[0]["config"]["data"]["root"] == "null"


@pytest.mark.parametrize(
    ("name", "word", "key", "text"),
    [
        ("collect", "data.root=2024", "root", "2024"),
        ("collect", "data.root=1e-3", "root", "1e-3"),
        ("collect", "+data.root=1.0", None, None),
        ("collect", "++data.root=1.0", "root", "1.0"),
        ("collect", "data.root='a\\${b}'", "root", "a${b}"),
    ],
)
def test_text_of_other_commands(name, word, key, text, forked):
    done = forked(name, word)
    if key is None:
        assert done.code == 2 or done.calls[0]["config"]["data"]["root"] == "1.0"
    else:
        assert done.calls[0]["config"]["data"][key] == text, done.stderr


@pytest.mark.slow
def test_what_looks_like_an_interpolation_is_read_back_as_text(forked):
    word = "run='a\\${b}'"
    assert forked("train", word, does={"all": "crash"}).code == 1
    assert (forked.folder / "a${b}").is_dir()
    assert forked("train", word, "resume=true").code == 0
    assert forked("train", "-m", "run='s\\${b}'", "seed=0,1", does={"1": "crash"}).code == 1
    assert forked("train", "-m", "run='s\\${b}'", "seed=1,0", "resume=true").code == 0


def test_an_interpolation_is_resolved(forked):
    done = forked("train", "run=r/${seed}", "seed=3")
    assert done.code == 0 and (forked.folder / "r" / "3").is_dir(), done.stderr


def test_what_cannot_be_read_is_answered_by_a_word_that_can(forked):
    import shlex

    bad = forked("train", "run=r/lr[1e-3]")
    assert bad.code == 2 and len(bad.stderr.splitlines()) == 3
    (hint,) = shlex.split(bad.stderr.rpartition("nearest: ")[2])
    assert forked("train", hint).code == 0 and (forked.folder / "r" / "lr[1e-3]").is_dir()
    home = forked("train", "run=~/x")
    assert home.code == 2 and home.stderr.endswith(f"nearest: run={Path.home()}/x\n")
    assert forked("train", "run=bad\udcff").code == 2
