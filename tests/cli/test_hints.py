"""Every command that an error, a config file or the documentation proposes is one that works."""

import importlib.util
import itertools
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import envs
from agentic_transformer.config import DataConfig
from agentic_transformer.contexts.training_data import open_store
from agentic_transformer.settings import shell_join, shell_words
from datasets.collectors import collectors
from datasets.download import ALGORITHMS, DOMAINS
from envs.family_table import FAMILIES
from experiments.cli import command_line
from experiments.cli.folders import runs_within
from tests.cli.conftest import ROOT
from tests.cli.test_configs import COMMANDS
from tests.documented_commands import programs, registrations_taken_back

SUBMITIT = importlib.util.find_spec("hydra_plugins.hydra_submitit_launcher")
TASKS = {envs.task(task).domain: task for task in reversed(envs.tasks())}
TASKS |= {"gymnasium": "gymnasium:Pendulum-v1"}
WRITTEN = [
    path
    for pattern in (
        "*.md",
        "docs/**/*.md",
        "conf/**/*.yaml",
        "experiments/**/*.py",
        "datasets/*.py",
    )
    for path in ROOT.glob(pattern)
    if "python -m experiments." in path.read_text()
    and path.name != "experiments.md"  # made from the files of conf/experiment
]
WORD = re.compile(r"-m|\+?[a-z][\w@./]*=[^\s`]*[^\s`:;,.]")


def composed(name, words):
    """The settings of the first and the last of a command line's jobs; raises what the command
    would say."""
    line = command_line.read(name, COMMANDS[name], words, takes_all=name == "plan")
    return [
        line.make_settings(list(words))
        for words in {tuple(line.job_overrides[0]), tuple(line.job_overrides[-1])}
    ]


def commands(text):
    """The names and words of the commands in a text that have any; a placeholder becomes a name."""
    for line in text.split("python -m experiments.")[1:]:
        line = line.split("\n")[0].replace("$tasks", "walker_stand,jaco_reach_top_left")
        numbers = itertools.count()
        line = line.replace("suite=<name>", "suite=ring")
        line = re.sub(r"<[^>]*>", lambda _: f"x{next(numbers)}", line)  # noqa: B023
        name, *words = line.split()
        words = list(itertools.takewhile(lambda found: found, map(WORD.match, words)))
        words = [word[0] for word in words]
        if not SUBMITIT:  # an extra that is not installed here
            of_slurm = ("hydra/launcher=submitit", "hydra.launcher.")
            words = [word for word in words if not word.startswith(of_slurm)]
        if words and name in COMMANDS:
            yield name, words


@pytest.mark.parametrize("domain", TASKS)
@pytest.mark.parametrize("algo", [DataConfig().algo, "mppi", "random", "rnd"])
def test_missing_data_is_answered_by_commands_that_make_it(domain, algo, tmp_path):
    task = TASKS[domain]
    config = DataConfig(root=str(tmp_path / "my [data]"), algo=algo, episodes=7, action_repeat=5)
    with pytest.raises(ValueError, match="no episodes") as missing:
        open_store(task, config)
    lines = str(missing.value).splitlines()
    assert 2 <= len(lines) <= 3
    hints = [
        hint
        for line in lines
        for hint in re.findall(r"`([^`]*)`(?: and give data\.algo=(\w+) here too)?", line)
    ]
    assert len(hints) == len(lines) - 1
    for hint, then in hints:
        _, _, name, *words = shlex.split(hint)
        (made,) = composed(name.rpartition(".")[2], words)
        if name == "experiments.collect":
            assert (made.task, made.data.root, made.data.episodes, made.data.action_repeat) == (
                task,
                config.root,
                7,
                5,
            )
            assert made.data.algo in collectors(task) and made.data.algo == (then or algo)
        else:
            assert (made.domain, made.root) == (domain, config.root)
            assert (
                made.domain in DOMAINS and made.algo in ALGORITHMS and made.algo == (then or algo)
            )


@pytest.mark.parametrize(
    ("asked", "lie"), [("data/speed", "data"), ("data", "data/speed"), ("my [data]/x", "my [data]")]
)
def test_missing_data_that_lie_in_another_root_are_found(asked, lie, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = DataConfig(root=asked, algo="rnd")
    with pytest.raises(ValueError, match=r"where they lie\)"):
        open_store("walker_speed", config)
    there = Path(lie) / "walker" / "rnd" / "buffer"
    there.mkdir(parents=True)
    (there / "episode_000000_1000.npz").touch()
    with pytest.raises(ValueError, match="no episodes in") as missing:
        open_store("walker_speed", config)
    (words,) = re.findall(r"where they lie: (.*) has some\)", str(missing.value))
    assert len(str(missing.value).splitlines()) <= 3
    (made,) = composed("train", ["task=walker_speed", *shlex.split(words)])
    assert Path(made.data.root) == Path(lie)


@pytest.fixture
def own_family():
    """A family of an environment of gymnasium, with episodes of 200 steps."""
    name = "gymnasium:Pendulum-v1"
    angle = {"angle": envs.Parameter("radians", (0,), (1,))}
    envs.register_family(
        name,
        angle,
        training=lambda rng, count: rng.uniform(size=(count, 1)),
        reward=lambda observation, angle: observation[..., 0] * angle,
    )
    yield name
    del FAMILIES[name]


@pytest.mark.parametrize(
    ("asked", "made"),
    [
        ({"episodes": 40}, {"episodes": 64, "length": None}),
        ({"episodes": 64, "length": 50}, {"episodes": 64, "length": 50}),
        ({"episodes": 1, "action_repeat": 7}, {"episodes": 32, "action_repeat": 7}),
        ({"episodes": 1, "action_repeat": 7, "length": 50}, {"episodes": 32, "length": 49}),
    ],
)
@pytest.mark.parametrize("ours", [True, False])
def test_what_td3_collects_is_answered_by_a_command_of_whole_rounds(
    ours, asked, made, own_family, tmp_path
):
    task = "cheetah_speed" if ours else own_family
    config = DataConfig(root=str(tmp_path), algo="td3", **asked)
    with pytest.raises(ValueError, match="no episodes") as missing:
        open_store(task, config)
    first = str(missing.value).splitlines()[1]
    _, _, _, *words = shlex.split(re.search("`([^`]*)`$", first)[1])
    (command,) = composed("collect", words)
    assert (command.task, command.data.algo) == (task, "td3")
    assert {key: getattr(command.data, key) for key in made} == made
    length = command.data.length or envs.spec(task).length
    held = asked.get("action_repeat", 1)
    assert length % held == 0 and length + held > (config.length or envs.spec(task).length)


def test_words_for_a_shell_are_those_that_one_would_type():
    task = "cheetah_speed(speed=1.5)"
    assert shell_words({"task": task}) == f"\"task='{task}'\""
    words = [f"a{first}b'{second}" for first in " '$`\\\"!~#*\n" for second in " '$`\\\"!&"]
    said = shell_join(words)
    assert shlex.split(said) == words
    done = subprocess.run(["bash", "-c", f"printf '%s\\0' {said}"], capture_output=True, text=True)
    assert done.stdout.split("\0")[:-1] == words


def test_missing_records_are_answered_by_a_command_that_makes_them(tmp_path):
    from experiments.reports.presentation import _records_of

    run = tmp_path / "it's [1], a = b"
    run.mkdir()
    (run / "config.yaml").write_text("")
    (folder,) = runs_within(run)
    with pytest.raises(ValueError, match="evaluate it first: ") as missing:
        _records_of(folder)
    _, _, name, *words = shlex.split(str(missing.value).partition("first: ")[2])
    (made,) = composed(name.rpartition(".")[2], words)
    assert made.run == str(run)


@pytest.mark.slow
def test_an_unfinished_sweep_is_continued_by_the_words_that_it_prints(forked):
    failed = forked("train", "-m", "run='a [1], $x'", "seed=0,1", does={"1": "crash"})
    said = re.search(r"the same command with (.*) runs these alone", failed.stderr)[1]
    again = forked("train", "-m", "seed=0,1", *shlex.split(said))
    assert again.code == 0 and [call["config"]["seed"] for call in again.calls] == [1], again.stderr


@pytest.mark.slow
@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_that_are_written_somewhere_can_be_given(path, tmp_path, monkeypatch):
    """A page's programs can be imported, as where its reader saved them."""
    for program, text in programs(path).items():
        (tmp_path / program).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with registrations_taken_back():
        for name, words in commands(path.read_text()):
            assert composed(name, words), (name, words)
    for program in programs(path):
        sys.modules.pop(Path(program).stem, None)
