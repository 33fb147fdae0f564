"""Random command lines: each does what was asked, or says in at most three lines why not, with exit
code 2.

The generator draws what is meant (settings and their values) and then a spelling of it, so that the
truth does not come from reading the words back.
"""

import itertools
import os
import tempfile
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.cli.conftest import ROOT
from tests.cli.test_configs import COMMANDS

pytestmark = pytest.mark.slow

LINES = 200
# Hydra's grammar gives each of these a meaning, or none at all, outside of quotes.
SPECIAL = "[](){},'\":"
PLAIN = "abcXYZ019._-/=#$%@+ éß日;&!?*|<>^`"
SMALL = st.integers(0, 999)
# The text settings of each command.
TEXT = {
    "train": ("agent.name", "data.root", "data.algo"),
    "evaluate": (),
    "collect": ("data.root",),
    "plot": ("out",),
    "verify": ("path",),
    "table": ("sweep",),
    "export": ("out",),
    "download": ("root", "sha256"),
}
REQUIRED = {"verify": ("path",), "table": ("sweep",), "export": ("out",)}
NUMBERS = {
    "train": {
        "seed": SMALL,
        "train.steps": SMALL.map(lambda n: n + 1),
        "train.learning_rate": st.sampled_from([0.5, 1e-05, 0.001, 1, 3e-4]),
        "model.width": st.sampled_from([8, 64, 256]),
        "model.scan_layers": st.booleans(),
        "data.horizon": st.sampled_from([None, 5, 12]),
        "eval.trajectories": st.lists(st.integers(1, 64), min_size=1, max_size=3, unique=True),
    },
    "collect": {"data.seed": SMALL, "data.episodes": SMALL.map(lambda n: n + 100)},
    "evaluate": {"eval.seed": SMALL, "eval.noise": st.sampled_from([0, 0.25, 1e-3])},
}
GROUPS = {"agent": ["at", "dt", "bc"], "model": ["small", "paper"]}
# A wrong word, for every command and for each.
FAULTS = {
    "every": [
        "typo=1", "+typo.x=2", "~{text}", "{text}=", "{text}='open", "{text}=[", "{text}=a,b",
        "hydra.run.dir=x", "--flag",
    ],
    "train": [
        "seed=-1", "seed=1.5", "seed=many", "seed=2e1", "model.width=[8]",
        "train.learning_rate=nan", "eval.trajectories=[1,1]", "agent=none", "model.scan_layers=1",
        "task=nowhere", "model.heads=7", "data.horizon=0", "data.episodes={{a:1}}", "resume=x",
    ],
    "collect": ["data.episodes=0", "data.seed=x", "data.relabel=1", "task=nowhere"],
    "plot": ["runs=x", "runs=[a,a]", "runs=[1.0,1.0]", "out="],
    "evaluate": ["run=nowhere", "checkpoint=1.5", "eval.noise=x", "eval.conditions=[own,own]"],
    "export": ["run=nowhere"],
    "download": ["domain=hopper", "algo=1"],
}  # fmt: skip


def quoted(text, mark):
    """Text in quotes as Hydra's manual says: a mark within gets a backslash, as do backslashes
    before it."""
    inner = text.replace("${", "\\${")
    return mark + inner.replace(mark, "\\" + mark) + mark


def names(alphabet):
    """Names for files: text that is no path to elsewhere, without spaces at its ends."""
    some = st.text(st.sampled_from(alphabet), min_size=1, max_size=12)
    numbers = ["1.10", "007", "20260304_0506", "1e3", "0x10", "true", "NaN", "-1", "2024", "12:30"]
    return (some | st.sampled_from(numbers)).filter(_is_name)


def _is_name(text):
    parts = text.split("/")
    return (
        text == text.strip()
        and all(part.strip(". ") for part in parts)
        and not text.startswith(("-", "{", "?", "~"))
    )


@st.composite
def text_values(draw):
    """A text and a spelling of it."""
    if draw(st.booleans()):
        text = draw(names(PLAIN).filter(lambda text: "${" not in text and text.lower() != "null"))
        return text, text
    text = draw(names(PLAIN + SPECIAL))
    return text, quoted(text, draw(st.sampled_from("'\"")))


def spelled(value):
    if isinstance(value, list):
        return f"[{','.join(map(spelled, value))}]"
    return "null" if value is None else repr(value).lower()


@st.composite
def lines(draw):
    """A command line: the command, the words, what each job shall get, and the folder that is
    named."""
    name = draw(st.sampled_from(["train"] * 8 + list(TEXT)[1:]))
    multirun = name == "train" and draw(st.integers(0, 3)) == 0
    asked, swept = {}, {}
    for key in draw(
        st.lists(st.sampled_from(sorted(NUMBERS.get(name, {})) or [""]), unique=True, max_size=3)
    ):
        if key:
            value = draw(NUMBERS[name][key])
            asked[key] = (value, spelled(value))
    some = (
        draw(st.lists(st.sampled_from(TEXT[name]), unique=True, max_size=2)) if TEXT[name] else []
    )
    for key in dict.fromkeys([*REQUIRED.get(name, ()), *some]):
        value = draw(text_values())
        if key != "agent.name" or value[0].replace(".", "").replace("-", "").isalnum():
            asked[key] = value
    if name == "plot":
        several = draw(
            st.lists(text_values(), min_size=1, max_size=3, unique_by=lambda value: value[0])
        )
        asked["runs"] = (
            [text for text, _ in several],
            f"[{','.join(word for _, word in several)}]",
        )
    if name == "download":
        asked |= {"domain": ("walker", "walker"), "algo": ("rnd", "'rnd'")}
    if name == "train" and draw(st.booleans()):
        group = draw(st.sampled_from(sorted(GROUPS)))
        asked[group] = (draw(st.sampled_from(GROUPS[group])),) * 2
    if multirun:
        key = draw(st.sampled_from(["seed", "agent.name"]))
        asked.pop(key, None)
        if key == "seed":
            values = draw(st.lists(SMALL, min_size=2, max_size=3, unique=True))
            swept[key] = [(value, spelled(value)) for value in values]
        else:
            values = draw(
                st.lists(
                    st.sampled_from(["1.10", "1.1", "007", "7", "a-b", "1e1", "10"]),
                    min_size=2,
                    max_size=3,
                    unique=True,
                )
            )
            swept[key] = [(value, value) for value in values]
    run = None
    if name in ("evaluate", "export") or (name == "train" and draw(st.booleans())):
        run = draw(text_values())
    words = [f"{key}={word}" for key, (_, word) in asked.items()]
    for key, values in swept.items():
        form = draw(st.sampled_from(["{}", "choice({})", "shuffle({})"]))
        words.append(f"{key}={form.format(','.join(word for _, word in values))}")
    words += [f"run={run[1]}"] if run else []
    words += ["-m"] if multirun else []
    fault = None
    if draw(st.integers(0, 2)) == 0:
        fault = draw(st.sampled_from(FAULTS["every"] + FAULTS.get(name, [])))
        text = {"train": "data.root", "evaluate": "run"}.get(name) or TEXT[name][-1]
        fault = fault.format(text=text)
        if fault == f"{text}=a,b" and multirun:
            fault = "typo=1"
        same = fault.lstrip("~+").partition("=")[0]
        words = [*(word for word in words if word.partition("=")[0] != same), fault]
    words = draw(st.permutations(words))
    every = [dict(zip(swept, values, strict=True)) for values in itertools.product(*swept.values())]
    jobs = [{key: value for key, (value, _) in (asked | one).items()} for one in every]
    again = name == "train" and run and not fault and draw(st.booleans())
    return name, words, jobs, run and run[0], fault, again


def expected(name, job):
    """All settings that a job shall have, by the files of its config groups and the dataclass's
    defaults."""
    settings = asdict(COMMANDS[name]())
    settings |= {"run": None} if name == "train" else {}
    for group in set(GROUPS) & set(job):
        settings[group] |= _group(group, job[group])
    for key, value in job.items():
        if key not in GROUPS:
            *inside, last = key.split(".")
            place = settings
            for part in inside:
                place = place[part]
            place[last] = value
    return settings


def _group(group, option):
    """A config file's settings, over those of the files that it starts from."""
    said = yaml.safe_load((ROOT / "conf" / group / f"{option}.yaml").read_text()) or {}
    base = {}
    for entry in said.pop("defaults", []):
        base |= _group(group, entry) if entry != "_self_" else {}
    return base | {key: float(value) if _is_float(value) else value for key, value in said.items()}


def _is_float(value):
    return isinstance(value, str) and value.replace("e-", "").replace(".", "").isdigit()


def plain(settings):
    """Settings without the run and whether it goes on, for comparison as text."""
    return repr(
        sorted((key, value) for key, value in flat(settings) if key not in ("run", "resume"))
    )


def flat(settings, prefix=""):
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield (
                prefix + key,
                float(value)
                if isinstance(value, int | float) and not isinstance(value, bool)
                else value,
            )


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@settings(
    max_examples=LINES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(line=lines())
def test_a_command_line_is_done_or_refused(server, line):
    name, words, jobs, run, fault, again = line
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        if name in ("evaluate", "export"):  # which take a run that is there
            trained = next(
                (word for word in words if word.startswith("run=") and word != fault), "run=r"
            )
            server(name="train", words=[trained], folder=place, does={})
        before = files(folder)
        done = server(name=name, words=words, folder=place, does={"all": "crash"} if again else {})
        if fault:
            assert done.code == 2, (words, done)
            assert 1 <= len(done.stderr.splitlines()) <= 3 and not done.calls, (words, done)
            assert files(folder) == before
            return
        assert done.code == (1 if again else 0), (words, done)
        truth = sorted(plain(expected(name, job)) for job in jobs)
        assert sorted(plain(call["config"]) for call in done.calls) == truth, words
        if again:
            sooner = [word for word in words if not word.startswith("seed=")]
            later = [word for word in words if word.startswith("seed=")]
            done = server(name=name, words=[*later, "resume=true", *sooner], folder=place, does={})
            assert (
                done.code == 0 and sorted(plain(call["config"]) for call in done.calls) == truth
            ), (words, done)
        if name in ("evaluate", "export"):
            assert [call["run"] for call in done.calls] == [run]
        if name != "train":
            return
        places = [Path(call["run"]) for call in done.calls]
        assert len(set(places)) == len(jobs)
        for call in done.calls:
            made = folder / call["run"]
            kept = yaml.safe_load((made / "config.yaml").read_text())
            assert (made / "train.txt").exists() and kept["run"] == (
                run and run.replace("${", "\\${")
            )
            if run:
                assert os.path.normpath(made.parent if len(jobs) > 1 else made) == os.path.normpath(
                    folder / run
                ), words


def test_a_handful_of_lines_from_the_shell(command):
    """With an interpreter each: nothing of the above is owed to the fork."""
    text = "été [1], a=b $x"
    for words, place in (
        (["run=1.10"], "1.10"),
        ([f"run='{text}'", "-m", "seed=shuffle(0,1)"], f"{text}/0"),
    ):
        done = command(*words)
        assert done.returncode == 0, done.stderr
        assert yaml.safe_load((command.folder / place / "config.yaml").read_text())[
            "run"
        ] == place.removesuffix("/0")
    refused = command(f"run={text}")
    assert refused.returncode == 2 and len(refused.stderr.splitlines()) <= 3
