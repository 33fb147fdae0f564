"""Collectors act in every domain, go on after an interruption, and record how a buffer was made."""

import json
import re

import numpy as np
import pytest

import datasets
import envs
from agentic_transformer.config import TD3Config
from agentic_transformer.online.collection import collect_td3
from datasets.collectors import collectors
from datasets.mppi_collector import RECIPES, planner_of
from datasets.verification import verify
from envs.mppi import MPPI, MPPIConfig
from tests.seeds import SEED, rng


def collect(task, folder, episodes, collector, seed=0):
    """Collects without a progress bar."""
    return datasets.collect(
        task, folder, episodes=episodes, seed=seed, collector=collector, progress=False
    )


def test_an_interrupted_collection_goes_on_to_the_same_buffer(tmp_path):
    """Lost and missing files come out bit for bit; a finished buffer can be extended."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    collect("point_mass_goal", whole, 130, "noise")
    collect("point_mass_goal", broken, 60, "noise")
    (broken / "episode_000007_12.npz").unlink()
    metadata = collect("point_mass_goal", broken, 130, "noise")
    names = sorted(path.name for path in whole.glob("*.npz"))
    assert len(names) == 130
    for name in names:
        one, other = datasets.read_episode(whole / name), datasets.read_episode(broken / name)
        for key, value in vars(one).items():
            np.testing.assert_array_equal(value, getattr(other, key))
    assert metadata == json.loads((broken / "metadata.json").read_text())
    assert metadata["collector"] == "noise"
    assert metadata["seed"] == 0
    assert "mujoco" in metadata["versions"]


@pytest.mark.parametrize(
    ("wrong", "allowed"),
    [
        ({"episodes": 0}, "1 or more"),
        ({"seed": -1}, "0 or more"),
        ({"action_repeat": 0}, "1 or more"),
        ({"action_repeat": 1.5}, "1 or more"),
        ({"length": 0}, "1 to 12"),
        ({"length": 13}, "1 to 12"),
    ],
)
def test_a_number_that_is_not_allowed_is_told_before_anything_is_written(wrong, allowed, tmp_path):
    """By the collectors that learn, too."""
    ((name, value),) = wrong.items()
    said = re.escape(f"{name}={value}; allowed: a whole number, {allowed}")
    with pytest.raises(ValueError, match=said):
        datasets.collect("point_mass_goal", tmp_path / "new", **{"episodes": 2} | wrong)
    with pytest.raises(ValueError, match=said):
        collect_td3(
            "point_mass_goal",
            tmp_path / "new",
            **{"episodes": 2} | wrong,
            config=TD3Config(episodes=2),
        )
    assert not list(tmp_path.iterdir())


def test_numbers_of_numpy_are_recorded_as_any(tmp_path):
    way = {"collector": "noise", "progress": False}
    made = datasets.collect("point_mass_goal", tmp_path, episodes=np.int64(2), **way)
    assert made == datasets.collect("point_mass_goal", tmp_path, episodes=2, **way)


def test_the_record_of_a_finished_buffer_is_not_rewritten(tmp_path, monkeypatch, capsys):
    """Asking for no new episodes, under other libraries, leaves the record as it was, and says how
    many there are."""
    before = collect("point_mass_goal", tmp_path, 6, "pd")
    monkeypatch.setattr("datasets.collection_metadata.version", lambda name: "another")
    for episodes in (6, 2):
        assert collect("point_mass_goal", tmp_path, episodes, "pd") == before
    assert datasets.collect("point_mass_goal", tmp_path, episodes=2, collector="pd") == before
    assert capsys.readouterr().out == f"{tmp_path}: 6 episodes are there already\n"
    (tmp_path / "episode_000001_12.npz").unlink()
    after = collect("point_mass_goal", tmp_path, 4, "pd")
    assert (after["episodes"], after["versions"]["mujoco"]) == (6, "another")
    assert json.loads((tmp_path / "metadata.json").read_text()) == after
    names = {f"episode_{index:06d}_12.npz" for index in range(6)}
    assert {path.name for path in tmp_path.iterdir()} == {".collecting", "metadata.json", *names}


def test_a_buffer_is_made_in_one_way(tmp_path):
    """Another seed or collector, or episodes of unknown origin, need another folder."""
    collect("point_mass_goal", tmp_path / "a", 2, "pd")
    with pytest.raises(ValueError, match="seed=0, not 1"):
        collect("point_mass_goal", tmp_path / "a", 2, "pd", seed=1)
    with pytest.raises(ValueError, match="collector='pd', not 'random'"):
        collect("point_mass_goal", tmp_path / "a", 2, "random")
    (tmp_path / "a" / "metadata.json").unlink()
    with pytest.raises(ValueError, match="not collected here"):
        collect("point_mass_goal", tmp_path / "a", 2, "pd")
    with pytest.raises(ValueError, match="nearest match: 'mppi'"):
        collect("walker_walk", tmp_path / "b", 2, "mpi")
    with pytest.raises(ValueError, match="data.algo=pd makes no data for walker_walk: .* random,"):
        collect("walker_walk", tmp_path / "b", 2, "pd")
    with pytest.raises(ValueError, match="mppi_annealed; experiments.collect has td3 too$"):
        collect("walker_speed", tmp_path / "b", 2, "pd")


def test_a_buffer_goes_on_with_the_settings_of_its_first_episodes(tmp_path, monkeypatch, capsys):
    """Changed constants of a collector are refused; a record without settings is accepted."""
    collect("point_mass_goal", tmp_path / "a", 2, "pd")
    collect("point_mass_goal", tmp_path / "a", 3, "pd")
    metadata = json.loads((tmp_path / "a" / "metadata.json").read_text())
    assert metadata["settings"]["gains"] == [20.0, 8.0]
    with monkeypatch.context() as patched:
        patched.setattr("datasets.pd_collectors._GAINS", (20.0, 9.0))
        with pytest.raises(
            ValueError,
            match=r"gains=\[20.0, 8.0\], not \[20.0, 9.0\]; choose another folder with data.root",
        ):
            collect("point_mass_goal", tmp_path / "a", 3, "pd")
    assert capsys.readouterr().out == ""
    del metadata["settings"]
    (tmp_path / "a" / "metadata.json").write_text(json.dumps(metadata))
    assert collect("point_mass_goal", tmp_path / "a", 4, "pd")["settings"] is None
    assert "does not say with which settings" in capsys.readouterr().out


@pytest.mark.parametrize("domain", sorted({envs.task(name).domain for name in envs.tasks()}))
def test_every_collector_acts(domain):
    """Actions are finite and within [-1, 1] for some task of the domain."""
    name = next(name for name in envs.tasks() if envs.task(name).domain == domain)
    for collector in collectors(name).values():
        assert (
            json.loads(json.dumps(collector.settings(envs.task(name)))) is not None
        )  # they can be kept beside a buffer
        environments = envs.make_vec(name, 4, seed=SEED)
        _, info = environments.reset()
        actor = collector(environments.tasks, rng(0), 4)
        for step in range(4):
            action = actor.act(step, info["physics"])
            assert action.shape == environments.action_space.shape
            assert np.abs(action).max() <= 1
            info = environments.step(action)[4]


@pytest.mark.parametrize(
    ("task", "repeat", "planned"),
    [
        ("walker_walk", 5, {"hold": 5, "knots": 5, "timestep_scale": 5}),  # of 3, 8 and 5
        ("cheetah_run", 5, {"hold": 5, "knots": 10, "timestep_scale": 1}),  # of 6, 8 and 2
        ("cheetah_run", 4, {"hold": 4, "knots": 12, "timestep_scale": 2}),
        ("walker_walk", 20, {"hold": 20, "knots": 1, "timestep_scale": 5}),
    ],
)
@pytest.mark.parametrize("collector", ["mppi", "mppi_annealed"])
def test_a_piece_of_a_plan_lasts_as_long_as_it_was_planned_for(
    task, repeat, planned, collector, tmp_path, monkeypatch
):
    """The pieces that are executed fill the episode; the record says what was done."""
    plan, executed = MPPI.plan, []

    def spied(self, physics):
        executed.append(self.config.hold)
        return plan(self, physics)

    monkeypatch.setattr(MPPI, "plan", spied)
    monkeypatch.setattr("datasets.mppi_collector.MPPICollector.batch", 2)
    metadata = datasets.collect(
        task,
        tmp_path,
        episodes=2,
        collector=collector,
        action_repeat=repeat,
        length=2 * repeat,
        progress=False,
    )
    assert sum(executed) == 2 * repeat
    assert planned.items() <= metadata["settings"].items()


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_left_alone_where_actions_fit_it(name):
    task = next(task for task in map(envs.task, envs.tasks()) if name in (task.name, task.domain))
    recipe = RECIPES[name].planner
    for repeat in {1, recipe.hold}:
        assert planner_of(task, repeat) == recipe


def test_a_plan_of_times_that_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="timestep_scale=2 does not divide the 5 physics steps of"):
        MPPI([envs.task("cheetah_run")], MPPIConfig(hold=5, timestep_scale=2), rng(0))


@pytest.mark.parametrize("repeat", [1, 5])
def test_noise_drifts_by_environment_steps(repeat, monkeypatch):
    """After one time scale a share exp(-1) is left, of 60,000 values, whatever the repeat."""
    monkeypatch.setattr("datasets.collectors._TIME_SCALES", (20.0, 20.0))
    monkeypatch.setattr("datasets.collectors._STRENGTHS", (0.1, 0.1))
    noise = collectors("walker_walk")["noise"]
    collector = noise([envs.task("walker_walk")] * 10000, rng(0), 25, repeat)
    drift = [collector.act(step, np.zeros((10000, 24))) for step in range(0, 25, repeat)]
    left = np.corrcoef(drift[0].ravel(), drift[20 // repeat].ravel())[0, 1]
    assert abs(left - np.exp(-1)) < 5 / np.sqrt(60000)


def test_pd_solves_the_maze(tmp_path):
    """A buffer of 100 walks through the rooms has good episodes of every corner."""
    collect("point_mass_maze_any", tmp_path / "buffer", 100, "pd")
    assert verify(tmp_path / "buffer", progress=False).problems == {}
    store = datasets.Store(datasets.build_cache(tmp_path / "buffer", progress=False))
    for corner in envs.members("point_mass_maze_any"):
        assert store.returns(corner).max() > 500


def test_planning_swings_the_pole_up():
    """A pole that hangs or lies earns less than half.

    Ten seeds earn 0.83 a step, noise earns 0.01, and the mean of four seeds varies by 0.07.
    """
    environments = envs.make_vec("cartpole_swingup", 4, seed=SEED)
    _, info = environments.reset()
    planner = MPPI(environments.tasks, RECIPES["cartpole"].planner, rng(0))
    paid = []
    for step in range(300):
        if step % RECIPES["cartpole"].planner.hold == 0:
            action = planner.plan(info["physics"])
        _, reward, _, _, info = environments.step(action)
        paid.append(reward)
    assert np.mean(paid[200:]) > 0.5
