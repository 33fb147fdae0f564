"""Episodes of several lengths are cut to one horizon, and a line says what is left out."""

import numpy as np
import pytest
from fabricated import make_episode

import datasets
import envs
from agentic_transformer.config import AgentConfig, DataConfig
from agentic_transformer.contexts.loader import ChainLoader
from agentic_transformer.contexts.relabelled import RelabelledDataset
from agentic_transformer.contexts.token_layouts import PackedTokens
from agentic_transformer.contexts.training_data import open_store

LENGTHS = (14, 17, 20)
TASK = envs.task("walker_run")


@pytest.fixture(params=[1 << 30, 0], ids=["in memory", "on disk"])
def store(request, tmp_path):
    """A walker's episode of each length."""
    buffer = tmp_path / "walker" / "pd" / "buffer"
    buffer.mkdir(parents=True)
    for index, length in enumerate(LENGTHS):
        datasets.write_episode(buffer, index, make_episode(length, seed=index))
    return datasets.Store(datasets.build_cache(buffer, progress=False), budget=request.param)


@pytest.mark.parametrize(("repeat", "horizon"), [(1, 10), (1, 14), (2, 5), (7, 2), (7, None)])
def test_each_is_cut_to_the_horizon(repeat, horizon, store):
    """Rows are the episodes' own; 14, 17 and 20 steps hold two steps of seven each."""
    view = datasets.ActionRepeatView(store, repeat, horizon)
    steps = horizon or 2
    assert view.lengths.tolist() == [steps] * 3
    observation, action = view.load([2, 0, 1])
    reward = view.rewards(TASK, [2, 0, 1])
    for place, index in enumerate([2, 0, 1]):
        episode = make_episode(LENGTHS[index], seed=index)
        paid = datasets.relabel(episode.physics, TASK)
        for step in range(steps):
            rows = np.arange(step * repeat, (step + 1) * repeat)
            np.testing.assert_array_equal(observation[place, step], episode.observation[rows[0]])
            mean = episode.action[rows + 1].mean(axis=0, dtype=np.float64)
            total = paid[rows + 1].sum(dtype=np.float64)
            # A mean of k numbers of at most 1 in float32: k roundings of a sum up to k, over k.
            # A sum of k rewards of at most 1, rounded once.
            within = {"rtol": 0, "atol": repeat * np.finfo(np.float32).eps}
            np.testing.assert_allclose(action[place, step], mean, **within)
            np.testing.assert_allclose(reward[place, step], total, **within)


@pytest.mark.parametrize(
    ("repeat", "horizon", "said", "most"),
    [
        (1, None, "data.horizon=null", 14),
        (1, 15, "data.horizon=15", 14),
        (5, None, "data.horizon=null with data.action_repeat=5", 2),
        (5, 3, "data.horizon=3 with data.action_repeat=5", 2),
        (15, None, "data.action_repeat=15", 14),
    ],
)
def test_a_horizon_that_does_not_fit_says_which_do(repeat, horizon, said, most, store):
    with pytest.raises(ValueError) as told:
        datasets.ActionRepeatView(store, repeat, horizon)
    allowed = f"allowed: whole numbers, 1 to {most}"
    assert str(told.value) == f"{said}: trajectories have 14 to 20 steps; {allowed}"


def test_a_store_reads_the_first_steps_of_each(store):
    expected = make_episode(20, seed=2).action[1:4]
    np.testing.assert_array_equal(store.load([0, 2], steps=3).action[1], expected)
    with pytest.raises(ValueError, match="at least 15 steps are needed, the shortest has 14"):
        store.load([0, 2], steps=15)


def test_a_command_trains_on_them_and_says_what_it_leaves_out(store, tmp_path, capsys):
    """From the files to the tokens of a training step."""
    opened = open_store("walker_run", DataConfig(root=str(tmp_path), horizon=10, episodes=3))
    assert "; of each the first 10 steps, of up to 20\n" in capsys.readouterr().out
    longer = DataConfig(root=str(tmp_path), horizon=4, action_repeat=3, episodes=3)
    open_store("walker_run", longer)
    assert "; of each the first 12 steps, of up to 20\n" in capsys.readouterr().out
    data = RelabelledDataset(opened, [TASK], "exorl")
    episodes = [make_episode(length, seed=index) for index, length in enumerate(LENGTHS)]
    paid = [datasets.relabel(episode.physics, TASK)[1:11] for episode in episodes]
    np.testing.assert_allclose(data.returns[0], np.sum(paid, axis=1, dtype=np.float64), rtol=1e-12)
    layout = PackedTokens(data.normalizer(1.0), 6, 10, conditioned=True)
    tokens = ChainLoader(data, AgentConfig(trajectories=3), layout, seed=0, rows=2)(0)
    assert tokens.features.shape[:2] == (2, 3 * 10)
