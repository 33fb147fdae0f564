"""Runs started from the command line: their folders, what those say, resuming, sweeps, exit codes."""

import json
import signal
from pathlib import Path

from omegaconf import OmegaConf

FILES = {"config.yaml", "overrides.yaml", "provenance.json", "status.json", "lock"}


def states(folder):
    return {path.parent.name: json.loads(path.read_text())["state"] for path in folder.rglob("status.json")}


def test_a_run_describes_itself(command):
    done = command("seed=3", "model.width=32", "mesh.virtual_devices=2", XLA_FLAGS="--xla_cpu_enable_fast_math=false")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "seed 3 False --xla_cpu_enable_fast_math=false --xla_force_host_platform_device_count=2\n"
    (run,) = (command.folder / "runs" / "point_mass_goal").iterdir()
    assert {path.name for path in run.iterdir()} == FILES | {"seed.txt"}
    config = OmegaConf.load(run / "config.yaml")
    assert (config.seed, config.model.width, config.train.steps) == (3, 32, 1300)
    assert list(OmegaConf.load(run / "overrides.yaml")) == ["seed=3", "model.width=32", "mesh.virtual_devices=2"]
    facts = json.loads((run / "provenance.json").read_text())
    assert facts["command"] == "python -m experiments.train seed=3 model.width=32 mesh.virtual_devices=2"
    assert facts["seeds"] == {"seed": 3, "data.seed": 0, "eval.seed": 0}
    assert len(facts["commit"]) == 40 and isinstance(facts["dirty"], bool) and facts["packages"]["jax"] and facts["started"]


def test_eight_runs_at_once_have_eight_folders(command):
    started = [command(wait=False) for _ in range(8)]
    assert [process.wait(timeout=120) for process in started] == [0] * 8
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
    finished = command("run=kept", "seed=1", "resume=true")
    assert finished.returncode == 0 and finished.stdout == "kept is finished already\n"


def test_resume_finds_the_newest_unfinished_run(command):
    killed = [command(f"seed={seed}", body="os.kill(os.getpid(), 9)") for seed in (1, 2)]
    assert [done.returncode for done in killed] == [-signal.SIGKILL] * 2
    assert command("resume=true", "seed=2").returncode == 0
    assert {(path / "seed.txt").read_text(): states(path)[path.name] for path in (command.folder / "runs").glob("*/*")} == {
        "1": "running",
        "2": "finished",
    }
    assert "no unfinished run" in command("resume=true", "seed=2").stderr


def test_a_run_that_goes_on_is_left_alone(command):
    first = command("run=busy", body="import time\ntime.sleep(60)", wait=False)
    while not (command.folder / "busy" / "config.yaml").exists():
        assert first.poll() is None
    second = command("run=busy", "resume=true")
    first.kill()
    first.communicate()
    assert second.returncode == 2 and "another process works there" in second.stderr
    assert states(command.folder / "busy") == {"busy": "running"}


def test_bad_input_found_later_leaves_nothing(command):
    missing = command("run=quiet/new", body="from experiments.settings import reject\nreject('no data', 'data')")
    assert (missing.returncode, missing.stderr) == (2, "experiments.train: no data\n  allowed: data\n")
    assert not (command.folder / "quiet" / "new").exists()
    shown = command("run=other", body="from experiments.settings import reject\nreject('no data', 'data')")
    assert shown.returncode == 2 and states(command.folder / "other") == {"other": "failed"}  # the command left a file in it
    bug = command("run=bug", body="raise ValueError('not the project speaking')")
    assert bug.returncode == 1 and "Traceback" in bug.stderr


def test_exit_codes_of_a_command_pass_through(command):
    assert command("run=stopped", body="sys.exit(75)").returncode == 75
    assert states(command.folder) == {"stopped": "running"}


def test_a_sweep_survives_a_failing_job_and_redoes_it_alone(command):
    words = ["-m", "run=sweep", "seed=0,1,2"]
    failed = command(*words, body="if config.seed == 1: raise RuntimeError('job one')")
    sweep = command.folder / "sweep"
    assert failed.returncode == 1
    assert failed.stderr.splitlines()[-3:] == [
        "1 of 3 jobs did not finish:",
        "  sweep/1: RuntimeError: job one",
        "the same command with run=sweep resume=true runs these alone",
    ]
    assert states(sweep) == {"0": "finished", "1": "failed", "2": "finished", "sweep": "failed"}
    assert all({path.name for path in (sweep / job).iterdir()} >= FILES for job in "012")
    swapped = command("-m", "run=sweep", "seed=1,2,3", "resume=true")
    assert swapped.returncode == 2 and "other overrides" in swapped.stderr
    redone = command(*words, "resume=true")
    assert redone.returncode == 0 and redone.stdout.count("finished already") == 2 and redone.stdout.count("seed 1 ") == 1
    assert set(states(sweep).values()) == {"finished"}


def test_jobs_in_processes_of_their_own(command):
    done = command("-m", "seed=4,5", "model.width=range(8,10)", "hydra/launcher=joblib", "mesh.virtual_devices=2")
    assert done.returncode == 0, done.stderr
    (sweep,) = (command.folder / "runs" / "point_mass_goal").iterdir()
    assert states(sweep) == {**dict.fromkeys("0123", "finished"), sweep.name: "finished"}
    assert sorted(path.read_text() for path in sweep.rglob("seed.txt")) == ["4", "4", "5", "5"]
    assert done.stdout.count("--xla_force_host_platform_device_count=2") == 4
    assert not Path(command.folder / "multirun").exists() and not list(command.folder.rglob(".hydra"))


def test_help_and_cfg_show_and_leave_nothing(command):
    for words in (["--help"], ["--cfg", "job", "seed=3"], ["--hydra-help"]):
        done = command(*words)
        assert done.returncode == 0 and done.stdout and not done.stderr
    assert not list(command.folder.iterdir())
