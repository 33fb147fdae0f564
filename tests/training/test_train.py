"""Training from Python: from data to checkpoints, without a command line."""

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest

import datasets
from agentic_transformer import load, train
from agentic_transformer.config import (
    AgentConfig,
    CQLConfig,
    CRRConfig,
    DataConfig,
    IQLConfig,
    MeshConfig,
    ModelConfig,
    TD3BCConfig,
    TrainCommand,
    TrainConfig,
)
from agentic_transformer.run_files import PROVENANCE, read_json, write_json
from agentic_transformer.training.checkpoint import Checkpoints
from agentic_transformer.training.init_agent import InitialAgent
from experiments.cli.provenance import add_provenance
from experiments.train import main
from tests.seeds import SEED
from tests.small_agents import TASK, labelled

pytestmark = pytest.mark.slow

EPISODES = ("episodes", "episodes_there", "episodes_digest")


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """Settings of four small steps."""
    root = tmp_path_factory.mktemp("data")
    labelled(root, episodes=8, tasks=2)
    return TrainCommand(
        seed=SEED,
        data=DataConfig(root=str(root), episodes=8, tasks=2),
        agent=AgentConfig(trajectories=2),
        model=ModelConfig(width=8, layers=1),
        train=TrainConfig(steps=4, batch=4, warmup=1, log_every=2, checkpoint_every=2),
        td3_bc=TD3BCConfig(width=8, batch=8),
        iql=IQLConfig(width=8, batch=8),
        cql=CQLConfig(width=8, batch=8),
        crr=CRRConfig(width=8, batch=8),
    )


@pytest.fixture(scope="module")
def source(settings, tmp_path_factory):
    """A trained transformer."""
    run = tmp_path_factory.mktemp("source")
    train(settings, run)
    return run


@pytest.fixture(params=["transformer", "td3_bc", "iql", "cql", "crr"])
def config(settings, request):
    return replace(settings, agent=replace(settings.agent, learner=request.param))


def test_a_run_is_trained_and_loaded_from_python(config, tmp_path, capsys):
    facts = {}
    state = train(config, tmp_path, note=facts.update)
    out, said = capsys.readouterr()
    assert "100% 4/4 [" in said and "\r" not in said  # no bar where there is no terminal
    rows = "trajectories a step: 8 (train.batch=4 x agent.trajectories=2)" in out
    assert rows == (config.agent.learner == "transformer")  # the others learn from transitions
    assert int(state.step) == 4 and facts.keys() == {*EPISODES, "computation"}
    assert facts["episodes"] == facts["episodes_there"] == 8
    assert pd.read_csv(tmp_path / "metrics.csv")["step"].tolist() == [2, 4]
    assert Checkpoints(tmp_path).newest() == 4
    agent = load(str(tmp_path), checkpoint="2")
    observation = np.zeros((3, agent.spec.observation_size))
    context = agent.new_context(3, 1)
    action, _ = agent.act(context, np.ones(3), observation, 0, jax.random.key(0), 1.0, 1.0)
    assert action.shape == (3, agent.spec.action_size)


def test_only_learners_whose_losses_compare_have_a_best_checkpoint(config, tmp_path, monkeypatch):
    """The loss rises here, as an error of temporal differences does while values are learned."""
    save = Checkpoints.save

    def save_with_a_rising_loss(self, state, spec, loss):
        save(self, state, spec, float(state.step))

    monkeypatch.setattr(Checkpoints, "save", save_with_a_rising_loss)
    steps = replace(config.train, checkpoint_every=1, keep=1)
    train(replace(config, train=steps), tmp_path / "run")
    kept = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    if config.agent.learner == "transformer":
        assert kept == ["1", "4"] and Checkpoints(tmp_path / "run").find("best") == 1
    else:
        assert kept == ["4"]
        says = f"no best checkpoint: .*={config.agent.learner} .*; allowed: newest, or one of 4$"
        with pytest.raises(ValueError, match=says):
            load(tmp_path / "run", "best")


def test_a_run_that_was_told_to_stop_goes_on_to_the_same_state(config, tmp_path, capsys):
    whole = train(config, tmp_path / "whole")
    asked = iter([False, False, True])
    assert int(train(config, tmp_path / "parts", lambda: next(asked)).step) == 2
    state = train(config, tmp_path / "parts")
    assert "goes on from checkpoint 2" in capsys.readouterr().out
    jax.tree.map(np.testing.assert_array_equal, state, whole)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model": ModelConfig(kernel="splash")}, "^model.kernel=splash cannot .*needs a TPU"),
        ({"mesh": MeshConfig(ring=64)}, "mesh.ring=64 must divide"),
        ({"train": TrainConfig(batch=3, grad_accum_steps=2)}, "train.batch=3"),
    ],
)
def test_devices_are_checked_before_data(settings, change, says, tmp_path, capsys):
    """A run that cannot compute reads nothing, and names no folder that is about to go."""
    nowhere = replace(settings.data, root=str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match=says) as refused:
        main(replace(settings, data=nowhere, **change), tmp_path)
    assert "kernel='" not in str(refused.value) and "run folder" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("known", "says"),
    [
        (True, "cannot be continued: the run learned from 8 of 8 episodes, now 9 of 9 would be"),
        (False, "checkpoints/2 was made with other data: best_return is|normalizer"),
    ],
)
def test_a_run_whose_data_grew_is_not_resumed(settings, known, says, tmp_path):
    """It is the same agent, and is not called another one; its record stays as it was."""
    labelled(tmp_path / "data", episodes=8, tasks=2)
    data = replace(settings.data, root=str(tmp_path / "data"), episodes=20)
    config, run = replace(settings, data=data), tmp_path / "run"
    run.mkdir()
    write_json(run / PROVENANCE, {"command": "train"})
    asked = iter([False, False, True])
    train(config, run, lambda: next(asked), partial(add_provenance, run))
    before = read_json(run / PROVENANCE)
    assert before["episodes"] == 8
    if not known:  # as of a run from Python, which has no provenance
        (run / PROVENANCE).unlink()
    labelled(tmp_path / "data", episodes=9, tasks=2)
    with pytest.raises(ValueError, match=says):
        train(config, run, note=partial(add_provenance, run))
    assert not known or read_json(run / PROVENANCE) == before


def test_a_run_goes_on_with_data_that_moved_and_not_with_others(settings, tmp_path):
    """It ends at the same parameters; a run that is refused tells the place of its own data."""
    run = tmp_path / "run"
    whole = train(settings, tmp_path / "whole")
    asked = iter([False, False, True])
    train(settings, run, lambda: next(asked))
    before = (run / "config.yaml").read_text()
    others = replace(settings.data, root=str(tmp_path / "others"))
    buffer = datasets.buffer_folder(others.root, TASK, "pd")
    datasets.collect(TASK, buffer, episodes=8, seed=SEED + 1, collector="pd", progress=False)
    with pytest.raises(ValueError, match="checkpoints/2 was made with other data"):
        train(replace(settings, data=others), run)
    assert (run / "config.yaml").read_text() == before
    moved = shutil.copytree(settings.data.root, tmp_path / "moved")
    config = replace(settings, data=replace(settings.data, root=str(moved)))
    jax.tree.map(np.testing.assert_array_equal, train(config, run), whole)
    assert f"root: {moved}" in (run / "config.yaml").read_text()


def test_a_run_that_was_told_to_stop_before_its_first_step_saves_nothing(settings, tmp_path):
    assert int(train(settings, tmp_path, lambda: True).step) == 0
    assert not list((tmp_path / "checkpoints").iterdir())


def test_a_run_of_the_same_scales_does_not_go_on_with_other_episodes(config, tmp_path):
    """Episodes of one number and one mean: two of them lie in the other's place."""
    (run := tmp_path / "run").mkdir()
    asked = iter([False, False, True])
    train(
        config, run, lambda: next(asked), note=lambda **facts: write_json(run / PROVENANCE, facts)
    )
    others = replace(config.data, root=str(tmp_path / "others"))
    shutil.copytree(config.data.root, others.root, ignore=shutil.ignore_patterns("*.h5"))
    first, second, *_ = sorted(Path(others.root).rglob("*.npz"))
    first.rename(first.with_name("aside"))
    second.rename(first)
    first.with_name("aside").rename(second)
    says = "run learned from other episodes than the 8 that are there now"
    with pytest.raises(ValueError, match=says):
        train(replace(config, data=others), run)


def test_a_run_starts_from_the_parameters_of_another(config, tmp_path):
    """With its scales, also where the new data have others; resumed, it needs that run no more."""
    source = train(config, tmp_path / "source")
    fewer = replace(config, data=replace(config.data, episodes=6), init=str(tmp_path / "source"))
    (tmp_path / "stopped").mkdir()
    first = train(fewer, tmp_path / "stopped", lambda: True)
    assert int(first.step) == 0
    jax.tree.map(np.testing.assert_array_equal, first.params, source.params)
    assert not any(map(np.any, jax.tree.leaves(first.optimizer)))
    whole = train(fewer, tmp_path / "whole")
    asked = iter([False, False, True])
    train(fewer, tmp_path / "parts", lambda: next(asked))
    (tmp_path / "source").rename(tmp_path / "elsewhere")
    jax.tree.map(np.testing.assert_array_equal, train(fewer, tmp_path / "parts"), whole)
    scales = [load(tmp_path / name).spec.normalizer for name in ("elsewhere", "parts")]
    assert scales[0] == scales[1]


@pytest.mark.parametrize("read", ["check", "scaled"])  # what is read before it is gone
def test_a_checkpoint_that_is_removed_while_a_run_starts_from_it_is_named(
    settings, source, read, tmp_path, monkeypatch
):
    """The other run still trains, and keeps its newest checkpoints alone."""
    other = shutil.copytree(source, tmp_path / "other")
    newest = other / "checkpoints" / str(Checkpoints(other).newest())
    method = getattr(InitialAgent, read)

    def read_then_lose(self, spec):
        found = method(self, spec)
        shutil.rmtree(newest)
        return found

    monkeypatch.setattr(InitialAgent, read, read_then_lose)
    with pytest.raises(ValueError, match=f"^{newest} is not there, or no longer: .*; start again"):
        train(replace(settings, init=str(other)), tmp_path / "run")


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"model": {"width": 16}}, "model.width is 8 there and 16 here"),
        ({"model": {"heads": 2}}, "model.heads is 1 there and 2 here"),
        ({"data": {"horizon": 3}}, "number of steps is 12 there and 3 here"),
        ({"agent": {"learner": "td3"}}, "agent.learner is transformer there and td3 here"),
        (
            {"agent": {"weighting": "advantage", "return_conditioning": "none"}},
            "agent.weighting is none there and advantage here",
        ),
    ],
)
def test_parameters_of_another_shape_are_refused(settings, source, other, says, tmp_path):
    change = {group: replace(getattr(settings, group), **values) for group, values in other.items()}
    with pytest.raises(ValueError, match=says):
        train(replace(settings, init=str(source), **change), tmp_path)


def test_more_steps_at_a_constant_rate_are_those_of_a_longer_run(settings, tmp_path):
    """Where the learning rate does not depend on the number of steps, nothing else does."""
    constant = replace(settings, train=replace(settings.train, final_fraction=1.0))
    whole = train(constant, tmp_path / "whole")
    train(replace(constant, train=replace(constant.train, steps=2)), tmp_path / "parts")
    jax.tree.map(np.testing.assert_array_equal, train(constant, tmp_path / "parts"), whole)


def test_the_learning_rate_of_a_row_is_that_of_its_step(settings, tmp_path):
    """It rises from 0 in the first step, which changes nothing, and falls by a cosine."""
    schedule = {"learning_rate": 0.01, "warmup": 2, "final_fraction": 0.2, "log_every": 1}
    config = replace(settings, train=replace(settings.train, **schedule))
    train(config, tmp_path / "run")
    rates = pd.read_csv(tmp_path / "run" / "metrics.csv")["learning_rate"]
    np.testing.assert_allclose(rates, [0, 0.005, 0.01, 0.006], rtol=1e-6)
    asked = iter([False, True])
    first = train(config, tmp_path / "first", lambda: next(asked))
    untrained = train(config, tmp_path / "untrained", lambda: True)
    assert int(first.step) == 1
    jax.tree.map(np.testing.assert_array_equal, first.params, untrained.params)
