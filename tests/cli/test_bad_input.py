"""Bad input stops before anything starts: exit code 2, at most three lines, the nearest right word,
no folder left behind."""

import importlib.util
import subprocess
import sys

import pytest

from agentic_transformer.config import AgentConfig, DataConfig, EvaluateCommand, TrainCommand
from agentic_transformer.contexts.training_data import open_store
from agentic_transformer.errors import (
    LINE_WIDTH,
    MEANT,
    UserError,
    nearest,
    raise_config_error,
)
from agentic_transformer.settings import settings_of
from agentic_transformer.validation import check_command
from experiments.cli import app as cli
from experiments.cli import command_line, overrides
from experiments.reports.condition_looks import NAMES
from tests.cli.conftest import ROOT
from tests.cli.test_configs import COMMANDS

# The words, and what the error must say.
BAD = [
    ("typo=1", "no setting typo"),
    ("+typo=1", "no setting typo"),
    ("++typo=1", "no setting typo"),
    ("~seed", "~seed"),
    ("~agent", "no setting can be removed"),
    ("~window=w3", "window=w3"),
    ("train.step=10", "nearest: train.steps"),
    ("++train.step=10", "nearest: train.steps"),
    ("+model.widht=10", "nearest: model.width"),
    ("steps=10", "nearest: train.steps"),
    ("task=walker_wlk", "nearest: walker_walk"),
    ("task=HalfCheetah-v5", "nearest: gymnasium:HalfCheetah-v5"),
    ("task=gymnasium:Pendulums-v1", "Did you mean: `Pendulum`"),
    ("task=walker_any data.relabel=stored", "a task that is not hidden"),
    ("agent=at_prefx", "nearest: at_prefix"),
    ("experiment=quickstrat", "nearest: quickstart"),
    ("agents=at", "nearest: agent"),
    ("agent=null", "at_prefix"),
    ("+experiment=quickstart", "allowed: experiment=quickstart"),
    ("train={steps:3}", "train is a group of settings; give train.steps=..."),
    ("train=3", "train=3: train is a group of settings; give train.steps=..."),
    ("eval.conditions=[own,dt]", "dt is an agent: train it with agent=dt, then experiments.plot"),
    ("eval.conditions=[empty]", "nearest: no_context"),
    ("eval.conditions=[own,foriegn]", "nearest: foreign"),
    ("seed=-1", "a whole number from 0"),
    ("seed=1.5", "whole number"),
    ("seed=true", "whole number"),
    ("seed=", "whole number"),
    ("data.episodes=0", "from 1 to"),
    ("data.episodes=many", "whole number"),
    ("train.steps=0", "from 1 to"),
    ("train.steps=1e3", "whole number"),
    ("train.learning_rate=nan", "a number from"),
    ("model.width=0", "from 1 to"),
    ("model.layers=[1]", "whole number"),
    ("mesh.ring=0", "from 1 to"),
    ("mesh.virtual_devices=257", "from 0 to 256"),
    ("mesh.ring=3 mesh.virtual_devices=4", "allowed: 1, 2, 4"),
    ("model.heads=3", "does not divide"),
    ("model.width=100000000000", "from 1 to 65536"),
    ("model.log_std_min=1", "a number from -10"),
    ("seed=4294967296", "to 4294967295"),
    ("train.batch=3 mesh.virtual_devices=2", "a multiple of 2"),
    ("agent.trajectories=50 data.episodes=40", "at most 40"),
    ("agent.trajectories=50 data.episodes=400 agent.top=0.1", "at most 40"),
    ("data.action_repeat=3 data.horizon=5", "a product of at most 12"),
    ("data.horizon=0", "or null"),
    ("data.length=12", "allowed: data.horizon=<steps> for their first steps"),
    ("experiment=cheetah_speed data.length=120", "training uses all steps of the episodes"),
    ("task=walker_walk data.tasks=7", "allowed: a task such as "),
    ("task=walker_any data.tasks=7", "which has no hidden parameters to draw"),
    ("-m task=point_mass_goal,walker_run data.tasks=7", "data.tasks=7 with task=walker_run"),
    ("eval.window=0", "from 1 to 4096, or null"),
    ("eval.window=32", "no context is as long, with eval.trajectories=[1,2,4,8,16]"),
    ("window=w3", "allowed: w1, w16, w2, w32, w4, w8"),
    ("agent=td3_bc run=x mesh.processes=2 mesh.coordinator=localhost:1", "one: a single device"),
    ("mesh.processes=2 mesh.coordinator=localhost", "<host>:<port> of process 0"),
    ("mesh.processes=2 mesh.coordinator=localhost:70000", "a port from 1 to 65535"),
    ("mesh.processes=2 mesh.coordinator=http://localhost:1", "no address"),
    ("agent.top=0", "from 1e-06 to 1"),
    ("agent=bc_told task=walker_any", "task=walker_any has no hidden parameters"),
    ("agent=bc_told agent.trajectories=4", "allowed: agent.trajectories=1"),
    ("experiment=jaco_goal agent=dt", "agent.trajectories=4 with agent.name=dt"),
    ("agent.return_conditioning=nothing", "nearest: none"),
    ("agent=at_value agent.return_conditioning=return", "allowed: agent.return_conditioning=none"),
    ("agent=td3_bc agent.weighting=advantage", "a head of the transformer"),
    ("agent=bc10 agent.learner=td3", "agent.top=1: transitions are drawn from all"),
    ("agent=iql agent.top=0.5", "agent.top=0.5 with agent.learner=iql"),
    ("agent.learner=tdd3", "transformer, <module>:<NAME>\n  nearest: td3"),
    ("-m agent.learner=td3,nowhere.learner:MINE", "there is no module nowhere.learner"),
    ("agent=at_value agent.learner=tests.linear_learner:LINEAR", "a head of the transformer"),
    ("agent.name=../x", "letters, digits"),
    ("eval.conditions=[own,own]", "own stands there twice"),
    ("run=/dev/null/x", "Not a directory"),
    ("eval.trajectories=8", "a list"),
    ("eval.trajectories=[]", "a list"),
    ("eval.trajectories=[1,0]", "from 1 to 4096"),
    ("eval.trajectories=[1,x]", "from 1 to 4096"),
    ("resume=maybe", "true or false"),
    ("run=", "text, or null"),
    ("data.root=null", "text"),
    ("seed=1 seed=2", "given twice"),
    ("seed=1 ++seed=2", "given twice"),
    ("agent=at agent=dt", "given twice"),
    ("train.steps=[1", "cannot read"),
    ("train.steps", "cannot read"),
    ("train.learning_rate=${nothing}", "nothing"),
    ("train.steps=${agent.name}", "train.steps"),
    ("seed=0,1", "-m"),
    ("eval.trajectories=1,2", "[a,b]"),
    ("task=walker_walk eval.conditions=[foreign,other_rewards]", "there is no other task"),
    ("-m seed=0,x", "seed=x"),
    ("-m model.width=64,-128", "model.width=-128"),
    ("-m model.width=range(0,3)", "model.width=0"),
    ("-m model.width=choice(64,wide)", "model.width=wide"),
    ("-m agent=at,tdmpc", "agent=tdmpc"),
    ("-m agent=glob(zz*)", "empty sweep"),
    ("-m seed=interval(0,1)", "range(start,stop,step)"),
    ("-m mesh.virtual_devices=1,2", "one command"),
    ("-m experiment=maze,quickstart", "one command for each number"),
    ("-m experiment=quickstart,maze seed=1,2", "mesh.virtual_devices=0 of experiment=maze seed=1"),
    ("-m run=a,b", "one value"),
    ("-m resume=true,false", "one value"),
    ("-m --cfg job", "--multirun"),
    ("--configname x", "--configname"),
    ("--seed 3", "nearest: seed=3"),
    ("--learning-rate=1e-3", "nearest: train.learning_rate=1e-3"),
    ("--agent dt -m", "nearest: agent=dt"),
    ("--resume", "nearest: resume=..."),
    ("--config-name x", "primary config 'x'"),
    ("--config-name x --cfg job", "--config-path"),
    ("--resolve", "allowed: --cfg job --resolve"),
    ("--package model", "allowed: --cfg job --package model"),
    ("--info nonsense", "'defaults-tree'"),
    ("--info seed=3", "'defaults-tree'"),
    ("--config-dir x", "x: no such folder"),
    ("--config-path x", "x: no such folder"),
    ("--experimental-rerun x", "--experimental-rerun"),
    ("hydra.typo=1", "hydra.typo"),
    ("+hydra.typo=1", "hydra.typo"),
    ("hydra.run.dir=x", "run=<folder>"),
    ("hydra.searchpath=[file:///x]", "allowed: --config-dir <folder>"),
    ("hydra/launcher=job", "nearest: joblib"),
    ("resume=true", "no unfinished run"),
    ("-m resume=true seed=0,1", "no unfinished sweep"),
]


def never(config, run):
    raise AssertionError("bad input reached the command")


@pytest.mark.parametrize(("words", "says"), BAD)
def test_bad_input(words, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train", *words.split()])
    with pytest.raises(SystemExit) as stopped:
        cli.run(never, TrainCommand)
    error = capsys.readouterr().err.rstrip("\n")
    assert stopped.value.code == 2
    assert says in error
    lines = error.removeprefix("experiments.train: ").split("\n")
    assert len(lines) <= 3 and all(len(line) <= LINE_WIDTH for line in lines)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("which", "says"),
    [
        ("bset", "nearest: best"),
        ("latest", "nearest: newest"),
        ("last", "nearest: newest"),
        ("-1", "or a step"),
        ("1.5", "or a step"),
    ],
)
def test_a_checkpoint_is_named_by_its_step_or_a_word(which, says):
    with pytest.raises(UserError, match=says):
        check_command(EvaluateCommand(run="run", checkpoint=which))


@pytest.mark.parametrize(
    "word", ["experiment", "model.width", "agent", "data.episodes", "eval.lr", "mesh.depth"]
)
def test_no_word_is_given_that_misleads(word):
    assert nearest(word, settings_of(EvaluateCommand)) is None


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("learning_rate", "train.learning_rate"),
        ("lr", "train.learning_rate"),
        ("train.lr", "train.learning_rate"),
        ("td3_bc.lr", "td3_bc.learning_rate"),
        ("agent.lr", "train.learning_rate"),
        ("batch_size", "train.batch"),
        ("train.wd", "train.weight_decay"),
        ("model.num_layers", "model.layers"),
        ("n_heads", "model.heads"),
        ("d_model", "model.width"),
        ("epochs", "train.steps"),
        ("env", "task"),
        ("dataset", "data.algo"),
        ("eval.episodes", "eval.tasks"),
        ("num_episodes", "data.episodes"),
    ],
)
def test_settings_are_meant_by_the_names_that_others_give_them(word, meant, forked):
    """Of several settings with one end, the first counts: that of `train` before `td3_bc`."""
    refused = forked("train", f"{word}=1")
    assert refused.code == 2 and refused.stderr.endswith(f"nearest: {meant}\n"), refused.stderr


@pytest.mark.parametrize("command", [TrainCommand, EvaluateCommand])
def test_a_list_of_the_settings_of_a_group_is_whole(command):
    known = settings_of(command)
    for group in {key.partition(".")[0] for key in known if "." in key}:
        with pytest.raises(UserError) as error:
            overrides.read([f"{group}.zzz=1"], command, {}, multirun=False)
        names = sorted(key.partition(".")[2] for key in known if key.startswith(f"{group}."))
        assert f"in {group}: {', '.join(names)}\n" in f"{error.value}\n"


def test_conditions_are_meant_by_words_that_figures_name_them_with():
    meant = {word: value for word, value in MEANT.items() if value in NAMES}
    assert meant and all(word in NAMES[value].split() for word, value in meant.items())


@pytest.mark.parametrize("length", range(5, 9))
def test_a_long_list_is_cut_between_its_items(length):
    words = [f"{number:0{length}}" for number in range(60)]
    with pytest.raises(UserError) as error:
        raise_config_error("wrong", ", ".join(words))
    line = str(error.value).splitlines()[1]
    assert len(line) <= LINE_WIDTH and line.endswith(", ...")
    assert set(line.removeprefix("  allowed: ").removesuffix(", ...").split(", ")) <= set(words)


@pytest.mark.parametrize("start", ["", "'", "(", "run=", "nearest: data.root="])
def test_what_is_said_behind_a_long_path_stays(start):
    line = f"{start}/home{'/of/a/student' * 40}: what is wrong"
    with pytest.raises(UserError) as error:
        raise_config_error(line)
    assert str(error.value) == line


@pytest.mark.parametrize("name", COMMANDS)
def test_nothing_slow_is_imported(name, tmp_path):
    """Neither jax nor MuJoCo, nor what takes as long; commands are started elsewhere."""
    script = (
        "import runpy, sys\n"
        f"sys.argv = ['experiments.{name}', 'typo=1']\n"
        "try:\n"
        f"    runpy.run_module('experiments.{name}', run_name='__main__')\n"
        "except SystemExit as stop:\n"
        "    slow = {'jax', 'mujoco', 'dm_control', 'pandas', 'matplotlib'}\n"
        "    print(stop.code, *(slow & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.stdout.split() == ["2"], done.stderr
    assert not list(tmp_path.iterdir())


def test_missing_data_says_which_command_makes_it(tmp_path):
    with pytest.raises(ValueError) as missing:
        open_store(
            "point_mass_maze_any", DataConfig(root=str(tmp_path), action_repeat=20, horizon=28)
        )
    words = f"task=point_mass_maze_any data.root={tmp_path} data.action_repeat=20"
    assert f"python -m experiments.collect {words}`" in str(missing.value)


def test_another_package_called_datasets(tmp_path):
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "__init__.py").write_text("")
    done = subprocess.run(
        [sys.executable, "-m", "experiments.train"],
        cwd=tmp_path,
        env={"PYTHONPATH": f"{tmp_path}:{ROOT}"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "'datasets'" in done.stderr


@pytest.mark.parametrize(
    ("name", "words", "said"),
    [
        ("collect", ["seed=1"], "allowed: data, task"),
        ("collect", ["agent=dt"], "there is no setting agent"),
        ("collect", ["data.horizon=50"], "allowed: data.length=<steps> for shorter episodes; data"),
        ("collect", ["data.relabel=exact"], "allowed: data.relabel in experiments.train"),
        ("collect", ["data.tasks=7"], "with the rewards of their own task"),
        ("collect", ["td3.width=7"], "data.algo=pd\n  allowed: data.algo=td3, or no td3.width"),
        ("evaluate", ["run=x", "model=paper"], "there is no setting model"),
        ("evaluate", ["run=x", "experiment=quickstart"], "there is no setting experiment"),
        ("plan", ["agent=dt"], "there is no setting agent"),
    ],
)
def test_a_group_of_another_command_is_refused(forked, name, words, said):
    done = forked(name, *words)
    assert done.code == 2 and said in done.stderr, done.stderr


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("collect", ["data.algo=td3", "td3.width=7", "data.episodes=64"]),
        ("collect", ["data.horizon=null", "data.length=6"]),
        ("train", ["experiment=cheetah_speed"]),  # whose file says how long collected episodes are
        ("train", ["experiment=cheetah_speed", "data.length=null", "data.tasks=7"]),
        ("train", ["experiment=cheetah_speed", "task=cheetah_run", "agent.imitate=taken"]),
        ("quickstart", ["data.length=10", "data.tasks=7"]),  # which collects and trains
    ],
)
def test_settings_that_a_command_does_not_use_may_stand_in_its_files(name, words):
    line = command_line.read(name, COMMANDS[name], words)
    assert isinstance(line.make_settings(words), COMMANDS[name])


def test_a_setting_that_is_missing_is_shown_with_the_newest_folder_that_fits(forked):
    words = ["task=walker_walk", "agent=dt"]
    for name, said in (("evaluate", "run=runs/mine"), ("table", "sweep=runs/sweep")):
        assert f"such as {said}\n" in forked(name).stderr  # the example, as there are no runs
    forked("train", "run=runs/old", *words)
    forked("train", "-m", "seed=0,1", *words)
    (sweep,) = (forked.folder / "runs" / "walker_walk").iterdir()
    assert f"such as sweep={sweep.relative_to(forked.folder)}\n" in forked("table").stderr
    forked("train", "run=runs/new", *words)
    status = forked.folder / "runs" / "old" / "status.json"
    status.write_text(status.read_text().replace('"started": "20', '"started": "19'))
    missing = forked("evaluate")
    assert missing.code == 2 and missing.stderr.count("\n") == 2
    assert "run is not given\n  allowed: run=<text>, such as run=runs/new\n" in missing.stderr
    assert "such as path=data/walker/rnd/buffer\n" in forked("verify").stderr


def test_an_earlier_name_in_a_config_of_ones_own_is_named(forked):
    folder = forked.folder / "mine" / "experiment"
    folder.mkdir(parents=True)
    (folder / "old.yaml").write_text("# @package _global_\nagent:\n  condition: none\n")
    done = forked("train", "--config-dir", "mine", "experiment=old")
    assert done.code == 2 and "return_conditioning" in done.stderr, done.stderr
    (folder / "older.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /train: default\n"
    )
    done = forked("train", "--config-dir", "mine", "experiment=older")
    assert done.code == 2 and "no line for train" in done.stderr, done.stderr


def test_a_launcher_that_an_extra_brings_is_answered_by_its_installation(forked):
    if importlib.util.find_spec("hydra_plugins.hydra_submitit_launcher"):
        pytest.skip("the extra `slurm` is installed")
    done = forked("train", "-m", "seed=0,1", "hydra/launcher=submitit_slurm")
    assert done.code == 2 and "make install EXTRAS=slurm" in done.stderr, done.stderr
    assert done.stderr.count("\n") <= 3


@pytest.mark.parametrize(
    ("text", "says", "help"),
    [
        ("agent:\n  seletion: uniform\n", "no setting agent.seletion", "nearest: agent.selection"),
        ("train:\n  learning-rate: 1\n", "train.learning-rate", "nearest: train.learning_rate"),
        ("seeed: 3\n", "no setting seeed", "nearest: seed"),
        ("train:\n  steps: many\n", "train.steps: Value 'many'", "allowed: a whole number from 1"),
        ("eval:\n  trajectories: [1, two]\n", "eval.trajectories: ", "allowed: a list such as"),
    ],
)
def test_a_wrong_line_of_a_config_file_is_named_as_one_of_a_command_line(forked, text, says, help):
    folder = forked.folder / "mine" / "experiment"
    folder.mkdir(parents=True)
    (folder / "own.yaml").write_text(f"# @package _global_\n{text}")
    done = forked("train", "--config-dir", "mine", "experiment=own")
    assert done.code == 2 and not done.calls
    first, *rest = done.stderr.splitlines()
    assert first.startswith("experiments.train: experiment/own.yaml: ") and says in first
    assert any(help in line for line in rest) and len(rest) <= 2


@pytest.mark.parametrize("text", ["seed: [1\n", "seed: 1\nseed: 2\n"])
def test_a_config_file_that_is_no_yaml_is_named(forked, text):
    folder = forked.folder / "mine" / "experiment"
    folder.mkdir(parents=True)
    (folder / "own.yaml").write_text(text)
    done = forked("train", "--config-dir", "mine", "experiment=own")
    assert done.code == 2 and not done.calls and done.stderr.count("\n") == 1, done.stderr
    assert f'in "{folder / "own.yaml"}", line 2' in done.stderr


def test_an_unknown_setting_of_an_option_is_named(forked):
    folder = forked.folder / "mine" / "agent"
    folder.mkdir(parents=True)
    (folder / "own.yaml").write_text("name: own\nseletion: uniform\n")
    done = forked("train", "--config-dir", "mine", "agent=own")
    assert done.code == 2 and "agent/own.yaml: there is no setting agent.seletion" in done.stderr
    assert "nearest: agent.selection" in done.stderr


def test_a_baseline_with_a_context_is_not_advised_to_take_another_name():
    """Under another name it would train with a context, and figures would show it as an agent."""
    with pytest.raises(UserError, match=r"allowed: agent\.trajectories=1$"):
        check_command(TrainCommand(agent=AgentConfig(name="dt", trajectories=4)))
