"""A told learner's collection: the same bytes after an interruption, its files, its rewards."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import agentic_transformer
import datasets
import envs
from agentic_transformer.config import CollectCommand, DataConfig, TD3Config
from agentic_transformer.errors import UserError
from agentic_transformer.online.collection import collect_td3, learner_path, returns_path
from agentic_transformer.online.replay import Replay
from agentic_transformer.online.td3 import TD3Learner
from agentic_transformer.validation import check_command
from datasets.collection import episode_path, episode_tasks, start_seed
from datasets.fingerprint import _SOURCE, fingerprint
from envs.family_table import FAMILIES
from envs.task_draws import collection_params
from tests.seeds import SEED, rng
from tests.tolerances import TINY, rounding, unit

TASK, LENGTH, REPEAT = "point_mass_goal", 12, 3
CONFIG = TD3Config(episodes=8, width=8, layers=1, batch=6)
ROUNDS = 3


def collect(root, rounds=ROUNDS, config=CONFIG, seed=SEED):
    """Collects without a progress bar, and returns the buffer."""
    folder = datasets.buffer_folder(root, TASK, "td3")
    how = {"seed": seed, "action_repeat": REPEAT, "progress": False}
    collect_td3(TASK, folder, episodes=rounds * config.episodes, config=config, **how)
    return folder


def contents(root):
    """The bytes of every file under a folder."""
    return {p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    root = tmp_path_factory.mktemp("whole")
    collect(root)
    return root


@pytest.fixture
def buffer(whole):
    return datasets.buffer_folder(whole, TASK, "td3")


@pytest.mark.slow
@pytest.mark.parametrize("calls", [0, 1])
def test_an_interrupted_collection_ends_with_the_same_bytes(whole, calls, tmp_path, monkeypatch):
    """It stops when the episodes of a round are written, of the first one or a later one."""
    learn, made = TD3Learner.learn, []

    def stopped(self, batches):
        if len(made) == calls:
            raise KeyboardInterrupt
        made.append(learn(self, batches))

    with monkeypatch.context() as patched:
        patched.setattr(TD3Learner, "learn", stopped)
        with pytest.raises(KeyboardInterrupt):
            collect(tmp_path)
    folder = datasets.buffer_folder(tmp_path, TASK, "td3")
    assert len(list(folder.glob("*.npz"))) == (calls + 1) * CONFIG.episodes
    # The last write may have been cut short elsewhere: an episode of the round is missing.
    episode_path(folder, (calls + 1) * CONFIG.episodes - 1, LENGTH).unlink()
    # A kill leaves what it interrupts: nothing holds its lock.
    for path in (learner_path(folder), episode_path(folder, 0, LENGTH)):
        path.with_name(f".{path.name}.7.partial").write_text("half")
    collect(tmp_path)
    assert contents(tmp_path) == contents(whole)


@pytest.mark.slow
@pytest.mark.parametrize("calls", [0, 1])
def test_a_second_collection_leaves_the_first_alone(whole, calls, tmp_path, monkeypatch):
    """It comes where the first learns, from episodes that it would take for those of a killed one,
    in the first round or a later one."""
    learn, made = TD3Learner.learn, []

    def second_comes(self, batches):
        if len(made) == calls:
            with monkeypatch.context() as patched:
                patched.setattr(TD3Learner, "learn", learn)
                with pytest.raises(ValueError, match="another process collects there"):
                    collect(tmp_path)
        made.append(learn(self, batches))

    monkeypatch.setattr(TD3Learner, "learn", second_comes)
    collect(tmp_path)
    assert len(made) == ROUNDS
    assert contents(tmp_path) == contents(whole)


@pytest.mark.slow
def test_a_finished_collection_stays_and_can_be_extended(whole, tmp_path):
    collect(tmp_path, rounds=1)
    before = contents(tmp_path)
    collect(tmp_path, rounds=1)
    assert contents(tmp_path) == before
    collect(tmp_path)
    assert contents(tmp_path) == contents(whole)
    collect(tmp_path, rounds=1)
    assert contents(tmp_path) == contents(whole)


@pytest.mark.slow
def test_what_a_learner_has_learned_from_must_be_there(tmp_path):
    folder = collect(tmp_path, rounds=1)
    with pytest.raises(ValueError, match="settings.width=8, not 9"):
        collect(tmp_path, config=replace(CONFIG, width=9))
    path = episode_path(folder, 3, LENGTH)
    kept = path.read_bytes()
    path.unlink()
    with pytest.raises(ValueError, match="000003_12.npz: is gone, but the learner has learned"):
        collect(tmp_path)
    path.write_bytes(kept)
    learner = learner_path(folder)
    saved = learner.read_bytes()
    method = saved.index(b"PK\1\2") + 10  # of compression, of the first array
    data = saved.index(b"NUMPY")
    for damaged in (
        b"",
        saved[:100],
        saved[:method] + b"\x63" + saved[method + 1 :],
        saved[:method] + b"\x08" + saved[method + 1 :],
        saved[:data] + b"n" + saved[data + 1 :],
    ):
        learner.write_bytes(damaged)
        with pytest.raises(ValueError, match="learner.npz: holds no learner that can continue"):
            collect(tmp_path)
    learner.unlink()
    with pytest.raises(ValueError, match="learner.npz: the learner of buffer .* is gone"):
        collect(tmp_path)
    learner.write_bytes(saved)
    collect(tmp_path)


@pytest.mark.slow
def test_a_learner_whose_episodes_are_all_gone_is_not_replaced(tmp_path, monkeypatch):
    """One that has learned nothing is, also by one of another seed or other settings."""
    for other in ({"seed": SEED + 1}, {"config": replace(CONFIG, width=9)}):
        with monkeypatch.context() as patched:
            patched.setattr(TD3Learner, "learn", lambda self, batches: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                collect(tmp_path, **other)
        (folder,) = tmp_path.rglob("buffer")
        for path in folder.glob("*.npz"):
            path.unlink()
        assert learner_path(folder).exists()
    assert folder == collect(tmp_path, rounds=1)
    other = tmp_path / "other"
    collect(other, rounds=1)
    assert contents(folder.parent) == contents(datasets.buffer_folder(other, TASK, "td3").parent)
    folder = collect(tmp_path, rounds=1)
    saved = learner_path(folder).read_bytes()
    for path in folder.glob("*.npz"):
        path.unlink()
    for config in (CONFIG, replace(CONFIG, width=9)):
        with pytest.raises(ValueError, match="000000_12.npz: is gone|holds no learner that can"):
            collect(tmp_path, config=config)
    assert learner_path(folder).read_bytes() == saved


@pytest.mark.slow
@pytest.mark.parametrize("file", ["online/td3.py", "training/td3_bc.py", "models/actor_critic.py"])
def test_a_round_of_an_edited_learner_is_reported(file, tmp_path, monkeypatch, capsys):
    collect(tmp_path, rounds=1)
    path = Path(agentic_transformer.__file__).parent / file
    monkeypatch.setitem(_SOURCE, path, path.read_bytes() + b"# edited")
    fingerprint.cache_clear()
    capsys.readouterr()
    collect(tmp_path, rounds=2)
    fingerprint.cache_clear()
    said = f"{CONFIG.episodes} more episodes are made under another code than those there"
    assert said in capsys.readouterr().out


@pytest.mark.slow
def test_episodes_hold_the_learners_own_action_and_what_it_was_told(whole, buffer):
    metadata = json.loads((buffer / "metadata.json").read_text())
    assert metadata["settings"]["noises"] == [0.0, 0.1, 0.2, 0.4]
    assert {"jax", "mujoco", "code"} <= set(metadata["versions"])
    with returns_path(buffer).open() as file:
        rows = list(csv.DictReader(file))
    count = ROUNDS * CONFIG.episodes
    seeds = [start_seed(SEED, index) for index in range(count)]
    tasks = episode_tasks(envs.task(TASK), seeds)
    assert len({task.id for task in tasks}) == count
    differences = {}
    for index, (task, row) in enumerate(zip(tasks, rows, strict=True)):
        path = episode_path(buffer, index, LENGTH)
        episode, arrays = datasets.read_episode(path), np.load(path)
        told = np.float32(np.tile(task.params["goal"], (LENGTH + 1, 1)))
        np.testing.assert_array_equal(arrays["parameters"], told)
        (noise,) = set(arrays["noise"].ravel().tolist())
        assert np.float32(row["noise"]) == np.float32(noise)
        goal = float(row["goal_0"]), float(row["goal_1"])
        np.testing.assert_allclose(goal, task.params["goal"], atol=1e-6)
        assert int(row["updates"]) == index // CONFIG.episodes * CONFIG.episodes * LENGTH // REPEAT
        paid = datasets.relabel(episode.physics, task)[1:].sum(dtype=float)
        assert abs(float(row["return"]) - paid) <= 1e-4  # it has four digits
        off = np.abs(episode.action[1:] - episode.demonstrator[1:]).max()
        differences.setdefault(noise, []).append(off)
        held = episode.demonstrator[1:].reshape(-1, REPEAT, 2)
        np.testing.assert_array_equal(held, held[:, :1].repeat(REPEAT, axis=1))
    assert max(differences.pop(0.0, [0])) == 0 < min(map(min, differences.values()))


@pytest.mark.slow
def test_relabelled_rewards_are_the_familys(buffer):
    """Of any parameters, also those of several numbers."""
    replay = Replay(envs.task(TASK), CONFIG.episodes, LENGTH // REPEAT, REPEAT)
    episodes = [
        datasets.read_episode(episode_path(buffer, index, LENGTH))
        for index in range(CONFIG.episodes)
    ]
    goals = collection_params(envs.task(TASK), CONFIG.episodes, rng(1))
    tasks = [envs.task(TASK, goal=tuple(goal)) for goal in goals]
    replay.add(episodes, tasks)
    steps = LENGTH // REPEAT
    # Goals near to where the mass went, so that something is paid.
    near = np.clip([episode.physics[-1, :2] for episode in episodes], -0.25, 0.25)
    total = 0.0
    for index, episode in enumerate(episodes):
        goal = envs.task(TASK, goal=tuple(near[index])).params["goal"]
        paid = datasets.relabel(episode.physics, envs.task(TASK, goal=goal))[1:]
        found = replay.learning_reward(
            np.full(steps, index), np.arange(steps), np.tile(goal, (steps, 1))
        )
        # `relabel` rounds to float32 what is at most 1.
        expected = paid.reshape(steps, REPEAT).sum(axis=1, dtype=float)
        np.testing.assert_allclose(found, expected, rtol=0, atol=2 * REPEAT * unit())
        total += paid.sum()
    assert total > 1


def test_a_learner_is_paid_what_the_environment_pays():
    """The maze charges for control: at the goal up to a fifth of the reward."""
    family, steps = "point_mass_maze_goal", 8
    start = envs.make("point_mass_maze_reach_top_left", seed=SEED).reset()[1]["physics"]
    task = envs.task(family, goal=tuple(start[:2]))
    env = envs.make(task, seed=SEED)
    observation, info = env.reset()
    rows = [(observation, np.zeros(2), 0.0, info["physics"])]
    for action in rng(0).uniform(-1, 1, (steps // 2, 2)).repeat(2, axis=0).astype(np.float32):
        observation, reward, _, _, info = env.step(action)
        rows.append((observation, action, reward, info["physics"]))
    observation, action, reward, physics = (np.array(column) for column in zip(*rows, strict=True))
    episode = datasets.Episode(
        observation=observation,
        action=action.astype(np.float32),
        reward=reward[:, None],
        discount=np.ones((steps + 1, 1)),
        physics=physics,
    )
    replay = Replay(envs.task(family), 1, steps // 2, 2)
    replay.add([episode], [task])
    paid = reward[1:].reshape(-1, 2).sum(axis=1)
    free = datasets.relabel(physics, task)[1:].sum()
    assert reward.sum() < 0.97 * free
    np.testing.assert_allclose(replay.returns, reward.sum(), rtol=1e-6)
    goals = np.tile(task.params["goal"], (steps // 2, 1))
    found = replay.learning_reward(np.zeros(steps // 2, int), np.arange(steps // 2), goals)
    np.testing.assert_allclose(found, paid, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("batch", "relabelled", "others"), [(8, 0.25, 2), (8, 0.0, 0), (1, 0.5, 0), (4, 1.0, 4)]
)
def test_batches_are_transitions_some_of_them_relabelled(batch, relabelled, others, buffer):
    count, steps = CONFIG.episodes, LENGTH // REPEAT
    replay = Replay(envs.task(TASK), count, steps, REPEAT)
    episodes = [datasets.read_episode(episode_path(buffer, i, LENGTH)) for i in range(count)]
    tasks = episode_tasks(envs.task(TASK), [start_seed(SEED, index) for index in range(count)])
    replay.add(episodes, tasks)
    config = replace(CONFIG, batch=batch, relabelled=relabelled)
    drawn = replay.draw(5, config, rng(2))
    assert drawn.observation.shape == (5, batch, 4 + 2) and drawn.reward.shape == (5, batch)
    rows = [episode.observation[::REPEAT] for episode in episodes]
    own = replay.told(np.stack(rows), replay.params[:, None].repeat(steps + 1, axis=1))
    relabelled = np.zeros((5, batch), bool)
    for update, row in np.ndindex(5, batch):
        seen, following = drawn.observation[update, row], drawn.next_observation[update, row]
        alike = (own[:, :-1, :4] == seen[:4]).all(axis=2)
        alike &= (own[:, 1:, :4] == following[:4]).all(axis=2)
        actions = np.stack([episode.action[1::REPEAT] for episode in episodes])
        alike &= (actions == drawn.action[update, row]).all(axis=2)
        ((episode, step),) = np.argwhere(alike)
        np.testing.assert_array_equal(seen[4:], following[4:])
        relabelled[update, row] = (seen[4:] != own[episode, step, 4:]).any()
        if not relabelled[update, row]:
            index = np.array([episode]), np.array([step])
            paid = replay.learning_reward(*index, replay.params[index[0]])
            expected = (1 - config.discount) * paid[0]
            error = abs(drawn.reward[update, row] - expected)
            assert error <= rounding(2) * expected + TINY
    np.testing.assert_array_equal(relabelled, np.arange(batch) < others + np.zeros((5, 1)))


@pytest.mark.slow
def test_a_parameter_that_never_varies_is_told_as_zero(tmp_path, monkeypatch):
    def training(random, count):
        return np.stack([random.uniform(-0.2, 0.2, count), np.full(count, 0.1)], axis=1)

    family = replace(FAMILIES[TASK], training=training, collection=None)
    monkeypatch.setitem(FAMILIES, TASK, family)
    replay = Replay(envs.task(TASK), 1, LENGTH // REPEAT, REPEAT)
    told = replay.told(np.zeros((100, 4)), training(rng(3), 100))[:, 4:]
    np.testing.assert_array_equal(told[:, 1], 0)
    assert np.abs(told[:, 0]).max() > 0.5
    folder = collect(tmp_path, rounds=2)
    actions = [datasets.read_episode(path).action for path in folder.glob("*.npz")]
    assert np.isfinite(actions).all() and len(actions) == 2 * CONFIG.episodes


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"task": "walker_run"}, "task=walker_run, which has no hidden parameters"),
        ({"task": "walker_any"}, "a task such as .*walker_speed"),
        ({"data": DataConfig(algo="td3", episodes=50)}, "a multiple, such as 64"),
        ({"td3": TD3Config(discount=1.0)}, "td3.discount=1.0: out of range\n.* to 0.9999"),
        (
            {"data": DataConfig(algo="td3", episodes=64, action_repeat=5)},
            "does not divide the 12 steps of an episode\n  allowed: a divisor, or data.length=10",
        ),
    ],
)
def test_what_cannot_be_collected_is_refused(change, said):
    config = {"task": TASK, "data": DataConfig(algo="td3", episodes=64), **change}
    with pytest.raises(UserError, match=said):
        check_command(CollectCommand(**config))
