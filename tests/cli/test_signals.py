"""Signals stop a command as they are expected to: what can be saved is, the truth is told, and so
is how to go on."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time

import pytest

from tests.cli.conftest import ROOT
from tests.cli.test_runs import WAIT, states

pytestmark = pytest.mark.slow

SIGNALS = {signal.SIGINT: -signal.SIGINT, signal.SIGTERM: 75, signal.SIGUSR2: 75}
READY = "(run / 'ready').touch()\n"
SAVED = WAIT.replace('(run / "saved").touch()', '(run / "checkpoints" / "30").mkdir(parents=True)')
SLEEP = READY + "import time\ntime.sleep(60)"
# A signal comes where Python drops exceptions, and one where a library makes another of them.
LOST = f"""
import time
class Late:
    def __del__(self):
        {READY.strip()}
        end = time.monotonic() + 1
        while time.monotonic() < end:
            pass
late = Late()
del late
time.sleep(60)"""
TURNED = (
    READY
    + """
import time
try:
    time.sleep(60)
except SystemExit:
    raise ValueError("made of it")"""
)
# Compiled code that gives Python no chance to run a handler before it returns.
BUSY = READY + "import hashlib\nhashlib.pbkdf2_hmac('sha256', b'', b'', 2**31 - 1)"

HANG = """
import pathlib, time
from agentic_transformer import run_files
from experiments.cli import run_folder
def hang(*_):
    pathlib.Path("ready").touch()
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def in_the_foreground():
    """Where these tests run in the background of a shell, it has them ignore SIGINT, and whatever
    they start."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def stop(started, folder, number, times=1):
    """Sends a signal once a file `ready` is there, and again; returns what was said on standard
    error."""
    while not list(folder.rglob("ready")):
        assert started.poll() is None, started.communicate()
        time.sleep(0.02)
    started.send_signal(number)
    for _ in range(times - 1):
        time.sleep(1)  # two that come at once are one, to the system
        started.send_signal(number)
    try:
        return started.communicate(timeout=60)[1]
    finally:
        started.kill()


def status(folder):
    return json.loads((folder / "status.json").read_text())


def again(said):
    """The words of the command that is said to go on, behind the module's name."""
    (line,) = [line for line in said.splitlines() if "to go on: " in line]
    words = shlex.split(line.partition("to go on: ")[2])
    assert words[:3] == ["python", "-m", "experiments.train"]
    return words[3:]


@pytest.mark.parametrize("number", SIGNALS)
def test_a_stopped_run_tells_its_step_and_the_command_that_goes_on(command, number):
    said = stop(started := command("seed=3", body=SAVED, wait=False), command.folder, number)
    (run,) = (command.folder / "runs" / "point_mass_goal").iterdir()
    assert started.returncode == SIGNALS[number] and "Traceback" not in said
    told = status(run)
    assert (told["state"], told["signal"], told["step"]) == (
        "stopped",
        signal.Signals(number).name,
        30,
    )
    place = run.relative_to(command.folder)
    assert f"{place}: stopped by {signal.Signals(number).name} at step 30\n" in said
    assert again(said) == ["seed=3", f"run={place}", "resume=true"]
    assert command(*again(said)).returncode == 0 and status(run)["state"] == "finished"


@pytest.mark.parametrize("number", SIGNALS)
def test_a_run_saves_also_if_the_reader_of_what_it_prints_was_stopped_too(command, number):
    """As Ctrl-C does to `python -m experiments.train ... 2>&1 | tee log`."""
    started = command("run=read", body=SAVED, wait=False)
    while not list(command.folder.rglob("ready")):
        assert started.poll() is None
    started.stdout.close(), started.stderr.close()
    started.send_signal(number)
    assert started.wait(timeout=60) == SIGNALS[number]
    told = status(command.folder / "read")
    assert (told["state"], told["step"]) == ("stopped", 30)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_run_may_be_stopped_before_there_is_anything_to_save(command, number):
    """While data are relabelled or a model is compiled, say."""
    said = stop(
        started := command("run=early", "seed=3", "resume=true", body=SLEEP, wait=False),
        command.folder,
        number,
    )
    assert started.returncode == SIGNALS[number] and "Traceback" not in said
    assert "early: stopped by " in said and "before its first checkpoint" in said
    assert again(said) == ["run=early", "seed=3", "resume=true"]
    told = status(command.folder / "early")
    assert told["state"] == "stopped" and "step" not in told


@pytest.mark.parametrize("words", [[], ["run=early"], ["run=early", "resume=true", "seed=3"]])
@pytest.mark.parametrize("where", ["run_folder.collect_provenance", "run_files.lock"])
def test_a_run_may_be_stopped_before_its_settings_are_written(command, words, where):
    """It leaves no folder, and the command that is printed starts it anew."""
    started = command(*words, before=f"{HANG}{where} = hang", wait=False)
    said = stop(started, command.folder, signal.SIGTERM)
    assert started.returncode == 75 and "Traceback" not in said
    assert again(said) == words
    (command.folder / "ready").unlink()
    assert not list(command.folder.rglob("*"))
    assert command(*again(said)).returncode == 0


@pytest.mark.parametrize("body", [BUSY, WAIT.replace("requested():", "requested() or True:")])
def test_a_second_interrupt_ends_at_once(command, body):
    """Even within compiled code, and where a save would take forever."""
    started = command("run=busy", body=body, wait=False)
    stop(started, command.folder, signal.SIGINT, times=2)
    assert started.returncode == 128 + signal.SIGINT
    assert states(command.folder) == {"busy": "running"}
    assert command("run=busy", "resume=true").returncode == 0


def test_an_interrupt_that_is_ignored_from_the_start_stays_ignored(command):
    """A shell has its background jobs ignore it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    started = command("run=background", body=WAIT, wait=False)
    while not (command.folder / "background" / "ready").exists():
        assert started.poll() is None
    started.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        started.wait(1)
    started.terminate()
    started.communicate(timeout=60)
    assert started.returncode == 75 and status(command.folder / "background")["signal"] == "SIGTERM"


@pytest.mark.parametrize("launcher", ["basic", "joblib"])
@pytest.mark.parametrize("group", [False, True])
def test_an_interrupt_lets_the_jobs_of_a_sweep_save(command, launcher, group):
    """As a terminal sends it, to all processes of the sweep, or to the one that waits for the
    others."""
    words = ["-m", "run=sweep", "seed=0,1,2", f"hydra/launcher={launcher}"]
    words += ["hydra.launcher.n_jobs=2"] if launcher == "joblib" else []
    sweep, jobs = command.folder / "sweep", 2 if launcher == "joblib" else 1
    started = command(*words, body=SAVED, wait=False, start_new_session=True)
    while len(list(sweep.glob("*/ready"))) < jobs:
        assert started.poll() is None, started.communicate()
    (os.killpg if group else os.kill)(started.pid, signal.SIGINT)
    said = started.communicate(timeout=60)[1]
    assert started.returncode == -signal.SIGINT and "Traceback" not in said, said
    assert len(list(sweep.glob("*/checkpoints/30"))) == jobs
    assert states(sweep) == dict.fromkeys([*"01"[:jobs], "sweep"], "stopped")
    assert again(said) == [*words, "resume=true"]
    assert command(*words, "resume=true").returncode == 0
    assert states(sweep) == dict.fromkeys(["0", "1", "2", "sweep"], "finished")


@pytest.mark.parametrize(
    ("body", "state", "says"),
    [
        ("sys.exit(3)", "failed", "exit code 3"),
        ("sys.exit('no more')", "failed", "no more"),
        ("raise KeyError('x')", "failed", "KeyError: 'x'"),
        ("sys.exit(0)", "finished", None),
        ("raise KeyboardInterrupt", "stopped", None),
    ],
)
def test_however_a_run_ends_its_status_says_so(command, body, state, says):
    command("run=ended", body=body)
    told = status(command.folder / "ended")
    assert (told["state"], told.get("error")) == (state, says)
    assert "ended" in told


@pytest.mark.parametrize("body", [LOST, TURNED], ids=["lost", "turned"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_code_swallows_stops_a_run_all_the_same(command, number, body):
    started = command("run=deaf", body=body, wait=False)
    said = stop(started, command.folder, number)
    assert started.returncode == SIGNALS[number], said
    assert status(command.folder / "deaf")["state"] == "stopped"
    assert "Traceback" not in said and again(said) == ["run=deaf", "resume=true"]


def test_a_loop_of_a_shell_ends_with_the_run_that_is_interrupted(command, tmp_path):
    """Dying by the signal, and not with a code of our own, tells the shell that Ctrl-C was meant
    for it too."""
    command("--help", body=SLEEP)  # writes the script
    line = f"for n in 1 2; do {sys.executable} {tmp_path / 'train.py'} run=n$n; done; echo went on"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    shell = subprocess.Popen(
        ["bash", "-c", line],
        cwd=command.folder,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not (command.folder / "n1" / "ready").exists():
        assert shell.poll() is None
    os.killpg(shell.pid, signal.SIGINT)
    assert (
        "went on" not in shell.communicate(timeout=60)[0] and not (command.folder / "n2").exists()
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_collection_is_stopped_in_words_and_goes_on(command, number):
    words = ["task=point_mass_goal", "data.episodes=1000000"]
    line = [sys.executable, "-m", "experiments.collect", *words]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    started = subprocess.Popen(
        line, cwd=command.folder, env=environment, stderr=subprocess.PIPE, text=True
    )
    while not list(command.folder.rglob("*.npz")):
        assert started.poll() is None
    started.send_signal(number)
    said = started.communicate(timeout=60)[1]
    assert started.returncode == SIGNALS[number] and "Traceback" not in said
    name = signal.Signals(number).name
    assert f"stopped by {name}; to go on: python -m experiments.collect {' '.join(words)}\n" in said
