"""Runs started from the command line: folders, what they say, resuming, sweeps, exit codes."""

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pandas as pd
import pytest
from omegaconf import OmegaConf

from agentic_transformer import run_files
from agentic_transformer.errors import UserError
from experiments.reports.sweep_table import sweep_table
from tests.processes import ROOT, environment

pytestmark = pytest.mark.slow

FILES = {"config.yaml", "overrides.yaml", "provenance.json", "status.json", "lock"}


def states(folder):
    return {
        path.parent.name: json.loads(path.read_text())["state"]
        for path in folder.rglob("status.json")
    }


@pytest.mark.parametrize(
    "words",
    ["seed=1", "-m seed=1", "-m seed=1,2 hydra/launcher=joblib hydra.launcher.n_jobs=2"],
)
def test_a_run_does_not_end_with_the_reader_of_what_it_prints(words, command):
    body = "print('printed' * 10_000, flush=True)\nprint('and', 'buffered', file=sys.stderr)"
    started = command("run=mine", *words.split(), body=body, wait=False)
    started.stdout.close(), started.stderr.close()  # as `2>&1 | head -0` does
    assert started.wait(timeout=600) == 0
    assert set(states(command.folder / "mine").values()) == {"finished"}


@pytest.mark.parametrize("launcher", ["", "hydra/launcher=joblib hydra.launcher.n_jobs=1"])
def test_jobs_of_a_sweep_print_after_a_library_has_closed_its_log(launcher, command):
    """absl closes the stream that it logs to when Hydra sets up the logging of the next job."""
    body = "import absl.logging\nabsl.logging.use_absl_handler()\nprint('said', file=sys.stderr)"
    done = command("run=mine", "-m", "seed=1,2,3", *launcher.split(), body=body)
    assert set(states(command.folder / "mine").values()) == {"finished"}
    assert (done.returncode, done.stderr.count("said")) == (0, 3)


def test_a_run_describes_itself(command):
    done = command(
        "seed=3",
        "model.width=32",
        "mesh.virtual_devices=2",
        XLA_FLAGS="--xla_cpu_enable_fast_math=false",
    )
    assert (done.returncode, done.stderr) == (0, "")
    said = done.stdout.splitlines()
    assert (
        said[0]
        == "seed 3 False --xla_cpu_enable_fast_math=false --xla_force_host_platform_device_count=2"
    )
    assert len(said) == 2 and said[1].startswith("run folder: runs/point_mass_goal/")
    (run,) = (command.folder / "runs" / "point_mass_goal").iterdir()
    assert {path.name for path in run.iterdir()} == FILES | {"seed.txt"}
    config = OmegaConf.load(run / "config.yaml")
    assert (config.seed, config.model.width, config.train.steps) == (3, 32, 2000)
    assert list(OmegaConf.load(run / "overrides.yaml")) == [
        "seed=3",
        "model.width=32",
        "mesh.virtual_devices=2",
    ]
    facts = json.loads((run / "provenance.json").read_text())
    assert (
        facts["command"]
        == "python -m experiments.train seed=3 model.width=32 mesh.virtual_devices=2"
    )
    assert facts["seeds"] == {"seed": 3, "data.seed": 0, "eval.seed": 0}
    assert facts["packages"]["jax"] and facts["processor"] and facts["started"]
    line = ["git", "-C", str(ROOT), "log", "-1", "--format=%H"]
    asked = subprocess.run(line, capture_output=True, text=True)
    if (ROOT / ".git").exists() and not asked.returncode:
        assert facts["commit"] == asked.stdout.strip() and isinstance(facts["dirty"], bool)
    else:  # an archive, or another user's checkout
        assert facts["commit"] is facts["dirty"] is None


def test_eight_runs_at_once_have_eight_folders(command):
    started = [command(wait=False) for _ in range(8)]
    assert [process.wait(timeout=600) for process in started] == [0] * 8
    for process in started:
        process.communicate()
    assert list(states(command.folder).values()) == ["finished"] * 8


def test_a_named_folder_is_used_once_unless_resumed(command):
    kept = command.folder / "kept"
    failed = command("run=kept", "seed=1", body="raise RuntimeError('power cut')")
    assert failed.returncode == 1 and "RuntimeError: power cut" in failed.stderr
    assert json.loads((kept / "status.json").read_text())["error"] == "RuntimeError: power cut"
    again = command("run=kept", "seed=1")
    assert again.returncode == 2 and "holds a run already" in again.stderr
    other = command("run=kept", "seed=2", "resume=true")
    assert other.returncode == 2 and "seed is 1 there and 2 here" in other.stderr
    resumed = command("run=kept", "seed=1", "resume=true", "mesh.ring=2")
    assert resumed.returncode == 0 and states(kept) == {"kept": "finished"}
    assert len(json.loads((kept / "provenance.json").read_text())["resumed"]) == 1
    config = OmegaConf.load(kept / "config.yaml")  # from which an evaluation takes its settings
    assert (config.seed, config.mesh.ring) == (1, 2)
    finished = command("run=kept", "seed=1", "resume=true")
    assert finished.returncode == 0 and finished.stdout == "kept is finished already\n"


def test_resume_finds_the_newest_unfinished_run(command):
    killed = [command(f"seed={seed}", body="os.kill(os.getpid(), 9)") for seed in (1, 2)]
    assert [done.returncode for done in killed] == [-signal.SIGKILL] * 2
    assert command("resume=true", "seed=2").returncode == 0
    assert {
        (path / "seed.txt").read_text(): states(path)[path.name]
        for path in (command.folder / "runs").glob("*/*")
    } == {
        "1": "running",
        "2": "finished",
    }
    assert "no unfinished run" in command("resume=true", "seed=2").stderr


def test_resume_passes_over_runs_whose_settings_are_no_longer_known(command):
    """One of an earlier version, and one whose settings were never written: neither stops the
    search or is taken."""
    killed = [command("seed=1", body="os.kill(os.getpid(), 9)") for _ in range(3)]
    assert [done.returncode for done in killed] == [-signal.SIGKILL] * 3
    ours, old, empty = sorted((command.folder / "runs" / "point_mass_goal").iterdir())
    old_config = OmegaConf.load(old / "config.yaml")
    old_config.model.gone = 1
    OmegaConf.save(old_config, old / "config.yaml")
    (empty / "config.yaml").write_text("")
    assert command("resume=true", "seed=1").returncode == 0
    assert states(command.folder) == {
        ours.name: "finished",
        old.name: "running",
        empty.name: "running",
    }


def test_without_locks_a_run_goes_on_and_says_so(tmp_path, monkeypatch, capsys):
    """As on file systems that are mounted without them; who else works there cannot be known."""

    def unsupported(handle, operation):
        raise OSError(errno.ENOSYS, "Function not implemented")

    with run_files.lock(tmp_path):
        assert run_files.is_locked(tmp_path)
    monkeypatch.setattr("fcntl.flock", unsupported)
    with run_files.lock(tmp_path):
        assert "cannot be locked (Function not implemented)" in capsys.readouterr().err
    assert not run_files.is_locked(tmp_path)


def test_a_process_that_asks_whether_a_folder_is_locked_keeps_no_other_out(tmp_path, monkeypatch):
    """Others ask and lock at the very moment at which it holds the lock."""
    flock, asking = fcntl.flock, []

    def others_come(handle, operation):
        flock(handle, operation)
        if not asking:
            asking.append(handle)
            assert not run_files.is_locked(tmp_path)
            done = threading.Timer(0.05, flock, (os.dup(handle), fcntl.LOCK_UN))
            done.start()
            with run_files.lock(tmp_path):
                done.join()

    (tmp_path / run_files.LOCK).touch()
    monkeypatch.setattr("fcntl.flock", others_come)
    assert not run_files.is_locked(tmp_path)
    assert asking


def test_a_run_that_goes_on_is_left_alone(command):
    first = command("run=busy", body="import time\ntime.sleep(60)", wait=False)
    while not (command.folder / "busy" / "config.yaml").exists():
        assert first.poll() is None
    second = command("run=busy", "resume=true")
    first.kill()
    first.communicate()
    assert second.returncode == 2 and "another process works there" in second.stderr
    assert states(command.folder / "busy") == {"busy": "running"}


LOCKS_LATE = """
import time
from agentic_transformer import run_files
lock = run_files.lock
def lock_late(folder):
    while not (folder / "config.yaml").exists():
        time.sleep(0.05)
    return lock(folder)
run_files.lock = lock_late
"""


def test_a_start_that_comes_second_to_the_lock_leaves_the_files_of_the_first(command):
    """It has opened the folder first, while that was empty; the first has no work to show yet."""
    second = command("run=quiet", before=LOCKS_LATE, wait=False)
    while not (command.folder / "quiet").exists():
        assert second.poll() is None
    first = command("run=quiet", body="import time\ntime.sleep(60)", wait=False)
    _, said = second.communicate(timeout=60)
    kept = {path.name for path in (command.folder / "quiet").iterdir()}
    first.kill()
    first.communicate()
    assert second.returncode == 2 and "another process works there" in said
    assert kept >= {"config.yaml", "status.json", "lock"}


NO_DATA = """
from agentic_transformer.errors import raise_config_error
raise_config_error("no data", "data")
"""


def test_bad_input_found_later_leaves_nothing(command):
    missing = command(
        "run=quiet/new",
        body=NO_DATA,
    )
    assert (missing.returncode, missing.stderr) == (
        2,
        "experiments.train: no data\n  allowed: data\n",
    )
    assert not (command.folder / "quiet" / "new").exists()
    shown = command(
        "run=other",
        body=NO_DATA,
    )
    assert shown.returncode == 2 and states(command.folder / "other") == {
        "other": "failed"
    }  # the command left a file in it
    bug = command("run=bug", body="raise ValueError('not the project speaking')")
    assert bug.returncode == 1 and "Traceback" in bug.stderr


def test_exit_codes_of_a_command_pass_through(command):
    assert command("run=stopped", body="sys.exit(75)").returncode == 75
    assert (
        json.loads((command.folder / "stopped" / "status.json").read_text())["error"]
        == "exit code 75"
    )


def test_a_sweep_survives_a_failing_job_and_redoes_it_alone(command):
    words = ["-m", "run=sweep", "seed=0,1,2,3,4,5"]
    failed = command(*words, body="if config.seed == 1: raise RuntimeError('job one')")
    sweep = command.folder / "sweep"
    assert failed.returncode == 1
    assert failed.stderr.splitlines()[-3:] == [
        "1 of 6 jobs did not finish:",
        "  sweep/1: RuntimeError: job one",
        "the same command with run=sweep resume=true runs these alone",
    ]
    assert states(sweep) == dict.fromkeys("02345", "finished") | {"1": "failed", "sweep": "failed"}
    assert all({path.name for path in (sweep / job).iterdir()} >= FILES for job in "012345")
    swapped = command("-m", "run=sweep", "seed=1,2,3,4,5,6", "resume=true")
    assert swapped.returncode == 2 and "other overrides" in swapped.stderr
    redone = command(*words, "resume=true")
    assert (
        redone.returncode == 0
        and redone.stdout.count("finished already") == 5
        and redone.stdout.count("seed 1 ") == 1
    )
    assert set(states(sweep).values()) == {"finished"}


def test_jobs_in_processes_of_their_own(command):
    done = command(
        "-m",
        "seed=4,5",
        "model.width=range(8,10)",
        "hydra/launcher=joblib",
        "mesh.virtual_devices=2",
    )
    assert done.returncode == 0, done.stderr
    (sweep,) = (command.folder / "runs" / "point_mass_goal").iterdir()
    assert states(sweep) == {**dict.fromkeys("0123", "finished"), sweep.name: "finished"}
    assert sorted(path.read_text() for path in sweep.rglob("seed.txt")) == ["4", "4", "5", "5"]
    assert done.stdout.count("--xla_force_host_platform_device_count=2") == 4
    assert not Path(command.folder / "multirun").exists() and not list(
        command.folder.rglob(".hydra")
    )


def test_help_and_cfg_show_and_leave_nothing(command):
    for words in (["--help"], ["--cfg", "job", "seed=3"], ["--hydra-help"]):
        done = command(*words)
        assert done.returncode == 0 and done.stdout and not done.stderr
    assert not list(command.folder.iterdir())


WAIT = """
import time
from experiments.cli.preemption import Preemption
with Preemption() as preemption:
    while not preemption.check_requested():
        (run / "ready").touch()
        time.sleep(0.05)
    (run / "saved").touch()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_signals_let_a_run_save_and_end_it_with_75(command, number):
    started = command("run=stopped", body=WAIT, wait=False)
    while not (command.folder / "stopped" / "ready").exists():
        assert started.poll() is None
    started.send_signal(number)
    started.communicate(timeout=60)
    assert started.returncode == 75
    assert (command.folder / "stopped" / "saved").exists() and states(command.folder) == {
        "stopped": "stopped"
    }


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
@pytest.mark.parametrize("group", [False, True])
def test_signals_let_the_jobs_of_a_sweep_save(command, number, group):
    """Told alone, or with all of its processes: jobs under way save, those after them do not begin;
    75 says it goes on."""
    words = ["-m", "run=sweep", "seed=0,1,2,3", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    slow = WAIT.replace(
        '    (run / "saved")', '    time.sleep(0.5 + config.seed)\n    (run / "saved")'
    )
    started = command(*words, body=slow, wait=False, start_new_session=True)
    sweep = command.folder / "sweep"
    while len(list(sweep.glob("*/ready"))) < 2:
        assert started.poll() is None
    (os.killpg if group else os.kill)(started.pid, number)
    started.communicate(timeout=60)
    assert started.returncode == 75
    assert len(list(sweep.glob("*/saved"))) == 2 and states(sweep) == dict.fromkeys(
        ["0", "1", "sweep"], "stopped"
    )
    assert command(*words, "resume=true").returncode == 0
    assert states(sweep) == dict.fromkeys(["0", "1", "2", "3", "sweep"], "finished")


def test_a_sweep_that_goes_on_is_left_alone(command):
    words = ["-m", "seed=0,1"]
    first = command(*words, body="import time\ntime.sleep(60)", wait=False)
    while not list(command.folder.glob("runs/*/*/0/status.json")):
        assert first.poll() is None
    second = command(*words, "resume=true")
    first.kill()
    first.communicate()
    assert second.returncode == 2 and "no unfinished sweep" in second.stderr


def test_a_signal_outside_of_training_ends_a_run_at_once(command):
    started = command(
        "run=stopped", body="(run / 'ready').touch()\nimport time\ntime.sleep(60)", wait=False
    )
    while not (command.folder / "stopped" / "ready").exists():
        assert started.poll() is None
    started.terminate()
    started.communicate(timeout=60)
    assert started.returncode == 75 and states(command.folder) == {"stopped": "stopped"}


def test_a_launchers_own_answer_to_a_signal_comes_after_the_save(command):
    own = "import signal\nsignal.signal(signal.SIGUSR2, lambda *_: os._exit(3))\n"
    started = command("run=stopped", body=own + WAIT, wait=False)
    while not (command.folder / "stopped" / "ready").exists():
        assert started.poll() is None
    started.send_signal(signal.SIGUSR2)
    started.communicate(timeout=60)
    assert started.returncode == 3 and (command.folder / "stopped" / "saved").exists()


def test_jobs_of_a_sweep_share_out_the_accelerators(command, tmp_path):
    """Files tell which: lines of two processes may mix."""
    body = """
import time
device = os.environ["CUDA_VISIBLE_DEVICES"]
(run / "device").write_text(device)
ahead = True
while ahead:  # of the other process, which has begun fewer jobs
    time.sleep(0.05)
    begun = [path.read_text() for path in run.parent.glob("*/device")]
    ahead = begun.count(device) > sum(other not in (device, "") for other in begun)"""
    environment = {"CUDA_VISIBLE_DEVICES": "4,7", "JAX_PLATFORMS": "", "TMPDIR": str(tmp_path)}
    done = command(
        "-m", "run=sweep", "seed=0,1,2,3", "hydra/launcher=joblib", body=body, **environment
    )
    assert done.returncode == 0, done.stderr
    devices = [path.read_text() for path in command.folder.glob("sweep/*/device")]
    assert sorted(devices) == ["4", "4", "7", "7"]


def test_a_sweep_whose_worker_is_killed_says_so_and_goes_on(command):
    words = ["-m", "run=sweep", "seed=0,1,2", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    killed = command(*words, body="if config.seed == 1: os.kill(os.getpid(), 9)")
    assert (
        killed.returncode == 1
        and "the same command with run=sweep resume=true runs these alone" in killed.stderr
    )
    assert states(command.folder)["sweep"] == "failed"
    assert command(*words, "resume=true").returncode == 0
    assert set(states(command.folder).values()) == {"finished"}


def test_jobs_through_submitit(command):
    pytest.importorskip(
        "hydra_plugins.hydra_submitit_launcher", reason="the extra `slurm` is not installed"
    )
    done = command("-m", "run=sweep", "seed=4,5", "hydra/launcher=submitit_local")
    assert done.returncode == 0, done.stderr
    assert states(command.folder) == dict.fromkeys(["0", "1", "sweep"], "finished")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["mesh.processes=2"], "both, or neither"),
        (["mesh.processes=2", "mesh.process=2", "mesh.coordinator=localhost:1"], "0 to 1"),
        (["mesh.processes=2", "mesh.coordinator=localhost:1"], "run=<folder>"),
        (
            [
                "mesh.processes=2",
                "mesh.coordinator=localhost:1",
                "mesh.virtual_devices=2",
                "mesh.ring=3",
            ],
            "allowed: 1, 2, 4",
        ),
        (["train.grad_accum_steps=3"], "does not divide train.batch=32"),
    ],
)
def test_settings_of_several_processes_fit_each_other(command, words, says):
    done = command(*words)
    assert done.returncode == 2 and says in done.stderr
    assert not list(command.folder.iterdir())


def test_the_processes_of_a_slurm_job_are_told_from_one_alone(command):
    """One task is a run like any other, as submitit's jobs are; of several each has to know the
    folder, and the first writes."""
    job = {
        "SLURM_JOB_ID": "1",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_PROCID": "0",
        "SLURM_LOCALID": "0",
    }
    assert command("run=single", SLURM_NTASKS="1", **job).returncode == 0
    unnamed = command(SLURM_NTASKS="2", **job)
    assert unnamed.returncode == 2 and "run=<folder>" in unnamed.stderr
    assert command("run=first", SLURM_NTASKS="2", **job).returncode == 0
    assert command("run=second", SLURM_NTASKS="2", **job | {"SLURM_PROCID": "1"}).returncode == 0
    assert not (command.folder / "second").exists()
    assert states(command.folder) == {"single": "finished", "first": "finished"}


def test_a_table_of_a_sweep(command, tmp_path):
    body = """
# empty until the first row is due
rows = f"step,loss,seconds\\n1,3,1\\n2,{config.seed},5\\n" if config.seed < 2 else ""
(run / "metrics.csv").write_text(rows)
if config.seed:
    raise RuntimeError("job one")
(run / "records.csv").write_text("condition,trajectories,return\\nown,1,0\\nown,4,6\\nown,4,8\\n")
"""
    command("-m", "run=sweep", "seed=0,1,2", body=body)
    line = [sys.executable, "-m", "experiments.table", "sweep=sweep"]
    done = subprocess.run(
        line, cwd=command.folder, env=environment(), capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    table = pd.read_csv(command.folder / "sweep" / "table.csv")
    assert table.columns.tolist() == [
        "job",
        "state",
        "seed",
        "step",
        "loss",
        "seconds",
        "return own n=4",
    ]
    with pytest.raises(UserError, match=r"(?s)no jobs of a sweep.*nearest: sweep=.*sweep$"):
        sweep_table(command.folder)
    with pytest.raises(UserError, match="no jobs of a sweep"):
        sweep_table(command.folder / "sweep" / "0")
    assert table.fillna(-1).to_numpy().tolist() == [
        [0, "finished", 0, 2, 0, 5, 7.0],
        [1, "failed", 1, 2, 1, 5, -1],
        [2, "failed", 2, -1, -1, -1, -1],
    ]


def test_what_was_compiled_is_found_by_the_next_run_of_the_user_alone(
    command, tmp_path, monkeypatch
):
    """In their cache folder, where nobody else may write; not where the environment says no, or
    there is no place."""
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    body = """
import time, jax, logging
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_enable_compilation_cache", True)
found = []
def listen(name, **_):
    found.extend([name] if name.endswith("cache_hits") else [])
jax.monitoring.register_event_listener(listen)
jax.jit(lambda x: jax.numpy.sin(x) @ x)(jax.numpy.ones((8, 8)))
print("hits", len(found))
"""
    first, second = (command(body=body, XDG_CACHE_HOME=str(tmp_path / "cache")) for _ in range(2))
    folder = tmp_path / "cache" / "agentic_transformer" / "compiled"
    assert (
        "hits 0\n" in first.stdout and "hits 0\n" not in second.stdout and "hits" in second.stdout
    ), first.stderr + second.stderr
    assert folder.stat().st_mode & 0o077 == 0 and list(folder.iterdir())
    before = sorted(folder.iterdir())
    cold = command(body=body, XDG_CACHE_HOME=str(tmp_path / "cache"), JAX_COMPILATION_CACHE_DIR="")
    nowhere = command(body=body, XDG_CACHE_HOME="/dev/null")
    assert "hits 0\n" in cold.stdout and "hits 0\n" in nowhere.stdout and not nowhere.returncode
    assert sorted(folder.iterdir()) == before
    for entry in before:  # as by a kill while it was written
        entry.write_bytes(entry.read_bytes()[: entry.stat().st_size // 2])
    broken = command(body=body, XDG_CACHE_HOME=str(tmp_path / "cache"))
    assert "hits 0\n" in broken.stdout and broken.returncode == 0
