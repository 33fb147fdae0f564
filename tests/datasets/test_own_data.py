"""Data of one's own: the example of docs/data.md, stored rewards, and what is refused."""

import re
from dataclasses import replace

import numpy as np
import pytest
from fabricated import make_buffer, make_episode

import datasets
import envs
from agentic_transformer import train
from agentic_transformer.config import (
    AgentConfig,
    DataConfig,
    EvalConfig,
    EvaluateCommand,
    ModelConfig,
    TrainCommand,
    TrainConfig,
)
from agentic_transformer.contexts.training_data import open_store, training_data
from agentic_transformer.errors import UserError
from agentic_transformer.evaluation.evaluate import load_evaluation
from agentic_transformer.validation import check_command
from tests.test_architecture import ROOT
from tests.tolerances import assert_close

PENDULUM = "gymnasium:Pendulum-v1"


def stored_walker(root, episodes=4, **changes):
    """A walker's buffer without physics, and its episodes."""
    folder = root / "walker" / "pd" / "buffer"
    made = [replace(make_episode(seed=i, physics=False), **changes) for i in range(episodes)]
    for index, episode in enumerate(made):
        datasets.write_episode(folder, index, episode)
    return made, DataConfig(root=str(root), relabel="stored")


def test_the_example_of_the_page_is_read_with_the_rewards_that_it_wrote(tmp_path, monkeypatch):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/data.md").read_text(), re.S)
    (example,) = (block for block in blocks if block.startswith("# own_data.py"))
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "own_data.py", "exec"), {})
    assert datasets.verify("data/cartpole/mine/buffer", progress=False).problems == {}
    data = training_data("cartpole_swingup", DataConfig(algo="mine", relabel="stored"))
    env = envs.make("cartpole_swingup", seed=0)
    observation, _ = env.reset()
    trajectories, reward = data.load(np.array([0]), np.array([0]))
    np.testing.assert_array_equal(trajectories.observation[0, 0], observation)
    rng = np.random.default_rng(0)
    actions = [rng.uniform(-1, 1, 1) for _ in range(100)]
    np.testing.assert_array_equal(trajectories.action[0], np.array(actions, np.float32))
    paid = [env.step(action)[1] for action in actions]
    np.testing.assert_array_equal(reward[0], np.array(paid, np.float32))


def test_stored_rewards_are_those_in_the_episodes(tmp_path):
    """Episodes need no physics; longer steps have the sums."""
    episodes, config = stored_walker(tmp_path)
    expected = np.array([episode.reward[1:, 0] for episode in episodes])
    data = training_data("walker_run", config)
    chosen = np.array([3, 0])
    _, reward = data.load(np.zeros(2, int), chosen)
    np.testing.assert_array_equal(reward, expected[chosen])
    np.testing.assert_array_equal(
        data.rewards(np.zeros(2, int), chosen, np.array([5, 19])), expected[chosen, [5, 19]]
    )
    np.testing.assert_array_equal(data.returns[0], expected.sum(axis=1, dtype=np.float64))
    longer = training_data("walker_run", replace(config, action_repeat=5))
    assert_close(longer.returns, data.returns, 20)
    sums = expected.reshape(4, 4, 5).sum(axis=2, dtype=np.float64).astype("f4")
    np.testing.assert_array_equal(longer.load(np.zeros(4, int), np.arange(4))[1], sums)


def test_stored_rewards_that_do_not_fit_in_memory_are_read_as_they_are_asked_for(tmp_path):
    episodes, config = stored_walker(tmp_path)
    cache = datasets.build_cache(tmp_path / "walker/pd/buffer", progress=False)
    store = datasets.Store(cache, budget=0)
    expected = [episode.reward[1:, 0] for episode in episodes]
    np.testing.assert_array_equal(store.rewards("walker_run", mode="stored"), expected)


def test_a_task_that_the_rewards_were_not_collected_for_is_told_of(tmp_path, capsys):
    folder = datasets.buffer_folder(tmp_path, "cartpole_balance", "random")
    how = {"episodes": 1, "length": 3, "progress": False}
    datasets.collect("cartpole_balance", folder, **how)
    for task, said in (
        ("cartpole_swingup", ", collected for cartpole_balance"),
        ("cartpole_balance", ""),
    ):
        open_store(task, DataConfig(root=str(tmp_path), algo="random", relabel="stored"))
        assert f"rewards: those in the episodes{said}\n" in capsys.readouterr().out


def test_rewards_that_cannot_be_had_are_refused(tmp_path):
    _, config = stored_walker(tmp_path)
    with pytest.raises(ValueError, match="no physics.*data.relabel=stored takes those"):
        training_data("walker_run", replace(config, relabel="exorl"))
    for task in ("walker_any", "walker_speed"):  # for which `stored` would be refused, see below
        with pytest.raises(ValueError, match="be computed; allowed: episodes with physics$"):
            training_data(task, replace(config, relabel="exorl"))
    with pytest.raises(ValueError, match="of one task, not of walker_stand and 3 others"):
        training_data("walker_any", config)
    for task in ("walker_any", "walker_speed"):
        with pytest.raises(UserError, match="rewards in an episode are of one task"):
            check_command(TrainCommand(task=task, data=config))
    with pytest.raises(UserError, match="data.relabel=exact with task=gymnasium"):
        check_command(TrainCommand(task=PENDULUM, data=replace(config, relabel="exact")))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"reward": np.zeros((21, 1), np.float32)}, "every reward in the episodes is 0"),
        ({"reward": np.zeros((21, 4), np.float32)}, "have 4 columns"),
    ],
)
def test_stored_rewards_without_a_meaning_are_refused(changes, says, tmp_path):
    _, config = stored_walker(tmp_path, **changes)
    with pytest.raises(ValueError, match=says):
        training_data("walker_run", config)


def pendulum(length=200):
    """An episode such as Pendulum-v1 gives: cosine, sine and speed, a torque, a cost."""
    angle = np.linspace(0, 3, length + 1)
    observation = np.stack([np.cos(angle), np.sin(angle), angle], axis=1)
    action, reward = np.full((length + 1, 1), 0.5), -angle[:, None]
    action[0] = reward[0] = 0
    return datasets.Episode(observation, action, reward, np.ones((length + 1, 1)), None)


def changed(array, row, entry, value):
    array = array.copy()
    array[row, entry] = value
    return array


GOOD = pendulum()


@pytest.mark.parametrize(
    ("episode", "says"),
    [
        (replace(GOOD, observation=GOOD.observation[:, :2]), "observation 2, action 1 numbers a"),
        (replace(GOOD, action=GOOD.action.repeat(2, axis=1)), "observation 3, action 2 numbers a"),
        (replace(GOOD, action=changed(GOOD.action, 7, 0, 3)), "actions reach 3, outside [-1, 1]"),
        (
            replace(GOOD, observation=changed(GOOD.observation, 5, 2, 9)),
            "entry 2 of observation 5 is 9, outside [-8, 8]",
        ),
        (
            replace(GOOD, observation=changed(GOOD.observation, 5, 2, -9)),
            "entry 2 of observation 5 is -9, outside [-8, 8]",
        ),
        (pendulum(201), "201 transitions, an episode has at most 200"),
    ],
)
def test_what_an_environment_cannot_give_is_told_when_cached_and_verified(episode, says, tmp_path):
    """In the same words, one line that names the file."""
    folder = datasets.buffer_folder(tmp_path, PENDULUM, "mine")
    path = datasets.write_episode(folder, 0, episode)
    (problem,) = datasets.verify(folder, progress=False).problems.values()
    assert says in problem and "\n" not in problem
    with pytest.raises(ValueError) as told:
        training_data(PENDULUM, DataConfig(root=str(tmp_path), algo="mine"))
    assert str(told.value) == f"{path}: {problem}"
    assert not folder.with_suffix(".h5").exists()


def test_what_it_can_give_is_read_with_its_rewards(tmp_path):
    """Also with physics of whatever kind, and with bounds reached by rounding."""
    folder = datasets.buffer_folder(tmp_path, PENDULUM, "mine")
    extreme = changed(GOOD.observation, 5, 2, 8).astype(np.float32)
    for index, episode in enumerate(
        [GOOD, replace(GOOD, observation=extreme, physics=np.ones((201, 2)))]
    ):
        datasets.write_episode(folder / str(index), 0, episode)
        assert datasets.verify(folder / str(index), PENDULUM, progress=False).problems == {}
    datasets.write_episode(folder, 0, GOOD)
    data = training_data(PENDULUM, DataConfig(root=str(tmp_path), algo="mine"))
    assert_close(data.returns, [[GOOD.reward.sum()]], 200)


@pytest.mark.parametrize("states", [0, 2])
def test_a_reward_that_only_the_environment_knows_is_not_computed(tmp_path, states):
    """The error names the mode that takes the stored ones, and nothing is written."""
    folder = datasets.buffer_folder(tmp_path, PENDULUM, "mine")
    physics = np.ones((len(GOOD.reward), states)) if states else None
    datasets.write_episode(folder, 0, replace(GOOD, physics=physics))
    store = datasets.Store(datasets.build_cache(folder, progress=False))
    with pytest.raises(ValueError, match="pays.*data.relabel=stored takes those in the episodes"):
        store.rewards(PENDULUM)
    with pytest.raises(ValueError, match="its environment pays.*allowed: mode 'stored'"):
        datasets.relabel(GOOD.observation, PENDULUM)
    assert not list(folder.parent.glob("*rewards*"))
    paid = GOOD.reward[1:, 0].astype(np.float32)
    np.testing.assert_array_equal(store.rewards(PENDULUM, mode="stored"), [paid])


@pytest.mark.parametrize("key", ["observation", "action", "reward"])
def test_values_beyond_float32_are_found_before_they_become_infinite(key, tmp_path):
    buffer = make_buffer(tmp_path / "walker" / "pd" / "buffer", 1)
    path = buffer / "episode_000000_20.npz"
    with np.load(path) as stored:
        arrays = dict(stored)
    np.savez(path, **arrays | {key: changed(arrays[key].astype(np.float64), 3, 0, 1e39)})
    (problem,) = datasets.verify(buffer, progress=False).problems.values()
    assert problem == f"{key} reaches 1e+39, beyond float32, as which it is kept"
    with pytest.raises(ValueError, match=re.escape(problem)):
        datasets.build_cache(buffer, progress=False)


@pytest.mark.slow
def test_rewards_of_another_task_are_computed_for_its_evaluation(tmp_path):
    """Stored rewards are of the task of training."""
    buffer = datasets.buffer_folder(tmp_path, "cartpole", "random")
    datasets.collect(
        "cartpole_balance", buffer, episodes=3, seed=0, collector="random", length=6, progress=False
    )
    trained = TrainCommand(
        task="cartpole_balance",
        data=DataConfig(root=str(tmp_path), algo="random", episodes=3, relabel="stored"),
        agent=AgentConfig(trajectories=2),
        model=ModelConfig(width=8, layers=1),
        train=TrainConfig(steps=1, batch=2),
    )
    train(trained, tmp_path / "run")
    asked = EvaluateCommand(
        run=str(tmp_path / "run"),
        task="cartpole_swingup",
        eval=EvalConfig(tasks=2, trajectories=[1, 2], conditions=["own", "dataset"]),
    )
    evaluation, _ = load_evaluation(asked, tmp_path / "run", trained)
    expected = training_data("cartpole_swingup", replace(trained.data, relabel="exorl", tasks=1))
    np.testing.assert_array_equal(evaluation.data.returns[0], expected.returns[0])
