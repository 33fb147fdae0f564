"""Two processes with two devices each train as one with four, and open its checkpoints."""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress

import jax
import numpy as np
import orbax.checkpoint as ocp
import pandas as pd
import pytest
from jax.sharding import Mesh

from agentic_transformer.agents.load import load
from agentic_transformer.config import TrainCommand, TrainConfig
from agentic_transformer.contexts.loader import ChainLoader
from agentic_transformer.training import sharding
from agentic_transformer.training.checkpoint import Checkpoints
from agentic_transformer.training.state import init_state, make_optimizer
from agentic_transformer.training.step import make_train_step
from experiments.cli.run_folder import read_config
from tests.courses import distance
from tests.processes import environment
from tests.seeds import SEED
from tests.small_agents import describe, gradient_operations, labelled
from tests.tolerances import rounding

pytestmark = pytest.mark.slow

# A small agent's settings on less data.
ASCENDING = ["experiment=ascending", "data.episodes=120", "data.tasks=6", "train.log_every=1"]
# A tenth of its learning rate. At the whole of it these 20 steps are unstable (the
# loss rises at the end), which makes a small difference a hundred times larger in eight steps; at a
# tenth it stays, so that all losses compare closely.
STEPS, LEARNING_RATE = 20, 3e-4
WORDS = [*ASCENDING, f"train.steps={STEPS}", "train.checkpoint_every=1", f"train.keep={STEPS}"]
WORDS += [f"train.learning_rate={LEARNING_RATE}", f"seed={SEED}"]


def start(folder, *words, program=("-m", "experiments.train")):
    line = [sys.executable, *program, *words]
    return subprocess.Popen(
        line,
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(*processes):
    try:
        said = [process.communicate(timeout=300) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * len(processes), said
    return said


def meeting():
    """Settings with which two processes find each other.

    Systems give ports from 32768 on to whoever asks for any; an agreed one, which process 0 takes
    seconds later, is lower.
    """
    port = None
    while port is None:
        with socket.socket() as free, suppress(OSError):
            free.bind(("localhost", random.randrange(10_000, 30_000)))
            port = free.getsockname()[1]
    return ["mesh.virtual_devices=2", "mesh.processes=2", f"mesh.coordinator=localhost:{port}"]


def together(folder, *words):
    """Trains in two processes; what each said."""
    mesh = meeting()
    return finish(
        *(start(folder, *WORDS, *words, *mesh, f"mesh.process={number}") for number in range(2))
    )


def losses(run):
    return pd.read_csv(run / "metrics.csv")["loss"].to_numpy()


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A folder with data, and the run of one process."""
    folder = tmp_path_factory.mktemp("processes")
    labelled(folder / "data", episodes=120)
    finish(start(folder, *WORDS, "mesh.virtual_devices=4", "mesh.ring=2", "run=alone"))
    return folder


def test_two_processes_train_as_one_and_one_opens_their_checkpoint(alone):
    first, second = together(alone, "run=pair", "mesh.ring=2")
    assert "train at_prefix" in first[1] and "train at_prefix" not in second[1]
    assert {path.name for path in (alone / "pair").iterdir()} == {
        path.name for path in (alone / "alone").iterdir()
    }
    np.testing.assert_allclose(
        losses(alone / "pair"), losses(alone / "alone"), rtol=0, atol=allowed(alone / "alone")
    )
    ours, theirs = (load(alone / run)._params for run in ("pair", "alone"))
    # Adam moves a parameter by at most its rate a step. Where a gradient is no more than rounding
    # it may go either way, which the loss does not feel; all together would have to go a hundredth
    # of the farthest way apart.
    count = sum(x.size for x in jax.tree.leaves(theirs))
    assert distance(ours, theirs) < 0.01 * STEPS * LEARNING_RATE * np.sqrt(count)


def test_two_processes_go_on_from_the_checkpoint_of_one_and_shard_its_state(alone):
    run = shutil.copytree(alone / "alone", alone / "sharded")
    for step in range(11, 21):
        shutil.rmtree(run / "checkpoints" / str(step))
    (run / "status.json").unlink()
    together(alone, f"run={run.name}", "resume=true", "mesh.ring=2", "mesh.fsdp=true")
    expected, found = losses(alone / "alone"), losses(run)
    assert found[:10].tolist() == expected[:10].tolist()
    # From one state the same gradient, by Adam's moments (decay 0.9) after that step; then the same
    # losses.
    before, there, here = (
        first_moment(*where) for where in ((run, 10), (alone / "alone", 11), (run, 11))
    )
    gradient = 10 * (there - 0.9 * before)
    assert np.linalg.norm(10 * (here - there)) < 2 * rounding(operations(run)) * np.linalg.norm(
        gradient
    )
    np.testing.assert_allclose(found, expected, rtol=0, atol=allowed(run))


def operations(run):
    """Roundings on the way to a gradient."""
    trained = read_config(run, TrainCommand)
    return gradient_operations(load(run).spec, trained.train.batch)


def allowed(run):
    """Returns how far losses of the same training may lie apart.

    A step of Adam moves each parameter by its rate times the gradient's relative error; the loss
    changes by that times the gradient, of norm 1 at most as it is clipped: over all parameters and
    steps, rate * steps * sqrt(parameters) * error at most. The loss itself, of size 1 to 3, is
    rounded too.
    """
    error = 2 * rounding(operations(run))
    count = sum(x.size for x in jax.tree.leaves(load(run)._params))
    return error * (LEARNING_RATE * STEPS * np.sqrt(count) + 3)


def first_moment(run, step):
    """All of Adam's running means of the gradient, in float64."""
    handler, folder = (
        ocp.PyTreeCheckpointHandler(),
        (run / "checkpoints" / str(step) / "optimizer").resolve(),
    )
    as_numpy = jax.tree.map(
        lambda _: ocp.RestoreArgs(restore_type=np.ndarray), handler.metadata(folder).tree
    )
    arrays = jax.tree_util.tree_leaves_with_path(
        handler.restore(folder, args=ocp.args.PyTreeRestore(restore_args=as_numpy))
    )
    means = [
        leaf for path, leaf in arrays if any(getattr(key, "key", None) == "mu" for key in path)
    ]
    assert means
    return np.concatenate([leaf.ravel() for leaf in means]).astype(np.float64)


def test_a_signal_to_one_process_stops_both_with_one_checkpoint(alone):
    """Signals arrive at different times: the processes agree on the step at which they stop."""
    mesh = [
        *meeting(),
        "run=stopped",
        "mesh.ring=2",
        "train.steps=100000",
        "train.checkpoint_every=100000",
    ]
    pair = [start(alone, *ASCENDING, *mesh, f"mesh.process={number}") for number in range(2)]
    metrics = alone / "stopped" / "metrics.csv"
    while not metrics.exists() or metrics.read_text().count("\n") < 3:
        assert all(process.poll() is None for process in pair)
        time.sleep(0.05)
    pair[1].send_signal(signal.SIGTERM)
    for process in pair:
        process.communicate(timeout=300)
    assert [process.returncode for process in pair] == [75, 75]
    (step,) = (int(path.name) for path in (alone / "stopped" / "checkpoints").iterdir())
    assert step == pd.read_csv(metrics)["step"].max()
    assert Checkpoints(alone / "stopped").newest() == step
    assert (
        json.loads((alone / "stopped" / "status.json").read_text())["state"] == "stopped"
    )  # and not finished: it goes on


SLOW_END = """
import time
from agentic_transformer.config import TrainCommand
from agentic_transformer.training import checksums, distributed
from experiments import train
from experiments.cli import app
from experiments.reports import after_training

distributed.SHUTDOWN_TIMEOUT = 10
def slowly(work):
    return lambda *arguments: time.sleep(12) or work(*arguments)
checksums.write = slowly(checksums.write)
after_training.show_training = slowly(after_training.show_training)
app.run(train.main, TrainCommand)
"""


def test_a_process_that_is_done_waits_for_the_end_of_process_0(alone):
    """Else jax would abort both, and the last checkpoint would lack its checksums."""
    words = [*ASCENDING, *meeting(), "run=slow", "mesh.ring=2", "train.steps=1"]
    finish(*(start(alone, *words, f"mesh.process={i}", program=("-c", SLOW_END)) for i in range(2)))
    assert Checkpoints(alone / "slow").newest() == 1
    assert json.loads((alone / "slow" / "status.json").read_text())["state"] == "finished"


LATE_SIGNAL = """
import os, signal
from agentic_transformer.config import TrainCommand
from agentic_transformer.evaluation import learning_curve
from experiments import train
from experiments.cli import app

def training(config, run, should_stop, *others):
    assert not should_stop()
    if config.mesh.process == {signalled}:
        os.kill(os.getpid(), signal.SIGTERM)
learning_curve.train = training
app.run(train.main, TrainCommand)
"""


@pytest.mark.parametrize("signalled", [0, 1])
def test_a_signal_to_one_process_after_the_last_step_stops_both(signalled, alone):
    """One that left alone would keep the other waiting, until jax aborts it."""
    words = [*ASCENDING, *meeting(), f"run=late{signalled}", "mesh.ring=2"]
    program = ("-c", LATE_SIGNAL.format(signalled=signalled))
    pair = [start(alone, *words, f"mesh.process={i}", program=program) for i in range(2)]
    said = [process.communicate(timeout=300)[1] for process in pair]
    assert [process.returncode for process in pair] == [75, 75], said


def test_a_signal_before_the_first_step_stops_both_at_once(alone):
    """A process that ended alone would leave the other waiting, and jax would abort both."""
    words = [*meeting(), "run=early", "mesh.ring=2", "train.steps=100000"]
    pair = [start(alone, *ASCENDING, *words, f"mesh.process={number}") for number in range(2)]
    assert "Gloo" in pair[1].stdout.readline()  # connected; data and compilation come next
    pair[1].send_signal(signal.SIGTERM)
    said = [process.communicate(timeout=300)[1] for process in pair]
    assert [process.returncode for process in pair] == [75, 75], said
    assert "stopped by SIGTERM before its first checkpoint" in said[0]
    assert json.loads((alone / "early" / "status.json").read_text())["state"] == "stopped"


def test_the_processes_of_a_slurm_job_find_each_other():
    """By what `srun` tells each of them; jax takes the coordinator's port from the job's number."""
    script = (
        "from agentic_transformer.training import distributed\n"
        "from agentic_transformer.config import MeshConfig\n"
        "distributed.initialize(MeshConfig())\n"
        "import jax, sys\n"
        "index = jax.process_index()\n"
        "received = distributed.broadcast(index + 7)\n"
        "found = index, jax.process_count(), distributed.is_first(), received\n"
        # standard output has Gloo's words in the middle of others
        "sys.stderr.write(f'found {found}\\n')"
    )
    job = {
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": "2",
    }
    started = [
        subprocess.Popen(
            [sys.executable, "-c", script],
            env=environment(**job, SLURM_PROCID=str(number), SLURM_LOCALID=str(number)),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    for (_, said), found in zip(finish(*started), ((0, 2, True, 7), (1, 2, False, 7)), strict=True):
        assert f"found {found}" in said


def test_processes_with_other_settings_say_so_and_end(alone):
    mesh = [*WORDS, "run=unlike", *meeting()]
    started = [
        start(alone, *mesh, f"mesh.process={number}", f"train.grad_clip_norm={1 + number}")
        for number in range(2)
    ]
    ended = [process.communicate(timeout=300) for process in started]
    assert [process.returncode for process in started] == [2, 2]
    for number, (_, said) in enumerate(ended):
        assert (
            f"train.grad_clip_norm={1 + number}.0 in process {number}, not so in every process"
            in said
        )
    assert not (alone / "unlike").exists()


def test_only_process_0_makes_the_folder_of_a_run(alone):
    """Process 1 comes first here: it asks for process 0, in whose place this test listens."""
    with socket.create_server(("localhost", 0)) as coordinator:
        coordinator.settimeout(300)
        address = f"mesh.coordinator=localhost:{coordinator.getsockname()[1]}"
        process = start(alone, *WORDS, "run=first", *meeting()[:2], address, "mesh.process=1")
        try:
            coordinator.accept()[0].close()
            assert not (alone / "first").exists()
        finally:
            process.kill()
            process.communicate()


def test_where_process_0_fails_the_other_says_so_and_both_end(alone):
    words = [*WORDS, "data.root=nowhere", "run=dataless", *meeting()]
    started = [start(alone, *words, f"mesh.process={number}") for number in range(2)]
    ended = [process.communicate(timeout=300) for process in started]
    assert [process.returncode for process in started] == [2, 2]
    assert "no episodes" in ended[0][1]
    assert "process 0 failed" in ended[1][1]
    assert not (alone / "dataless").exists()


def test_sharded_state_takes_its_share_of_memory_and_gives_the_same_losses(tmp_path):
    data = labelled(tmp_path)
    spec = describe(data)
    mesh = Mesh(np.array(jax.devices()).reshape(4, 2), (sharding.DATA, sharding.RING))
    optimizer, _ = make_optimizer(TrainConfig(warmup=2))
    loader = ChainLoader(data, spec.agent, spec.layout(), SEED, 8)
    found = {}
    for fsdp in (False, True):
        graph, state = init_state(lambda: spec.build(SEED), optimizer, mesh, fsdp)
        step = make_train_step(graph, optimizer, spec, mesh, 4 * spec.steps, fsdp=fsdp)
        found[fsdp] = []
        for number in range(3):
            state, metrics = step(state, sharding.shard_batch(loader(number), mesh, "zigzag"))
            found[fsdp].append(float(metrics["loss"]))
        held = sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(state))
        whole = sum(x.nbytes for x in jax.tree.leaves(state))
        assert held < 0.3 * whole if fsdp else held == whole
    # Three steps of a rate near 0.003: rounding of the losses is all that there is.
    np.testing.assert_allclose(
        found[True], found[False], rtol=0, atol=10 * rounding(gradient_operations(spec, 8))
    )
    checkpoints = Checkpoints(tmp_path)
    checkpoints.prepare()
    checkpoints.save(state, spec.to_dict(), 0.0)
    checkpoints.close()
    like = init_state(lambda: spec.build(SEED), optimizer, sharding.make_mesh(8))[1]
    jax.tree.map(
        np.testing.assert_array_equal, Checkpoints(tmp_path).state(3, like, spec.to_dict()), state
    )


def test_processes_hold_every_row_once():
    """As many hosts as one likes, here of made-up devices."""

    class Device:
        def __init__(self, process):
            self.process_index = process

    class FakeMesh:
        def __init__(self, devices):
            self.devices = devices
            self.shape = dict(zip((sharding.DATA, sharding.RING), devices.shape, strict=True))

    hosts = np.array([[3, 3], [0, 0], [1, 1], [2, 2]])
    rows = []
    for process in range(4):
        # Seen from that process: its devices are those of process 0, which this is.
        devices = np.vectorize(lambda host, process=process: Device(0 if host == process else 1))(
            hosts
        )
        rows.append(sharding.local_rows(FakeMesh(devices), 16))
    assert sorted(np.concatenate(rows)) == list(range(16))
    assert rows[3].tolist() == [0, 1, 2, 3] and rows[0].tolist() == [4, 5, 6, 7]
