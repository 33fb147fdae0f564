"""Demonstrators' own actions lie beside the noisy ones; readers of ExoRL's format skip them."""

from dataclasses import replace

import numpy as np
import pytest
from fabricated import make_episode

import datasets
import envs
from agentic_transformer.config import AgentConfig, DataConfig, ModelConfig, TrainCommand
from agentic_transformer.contexts.loader import ChainLoader
from agentic_transformer.contexts.training_data import training_data
from agentic_transformer.errors import UserError
from agentic_transformer.models.spec import AgentSpec
from agentic_transformer.validation import check_command
from tests.seeds import SEED, rng

LENGTH, REPEAT = 60, 6
HOW = {"episodes": 10, "seed": SEED, "action_repeat": REPEAT, "length": LENGTH, "progress": False}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Ten short episodes of one hidden speed, whose noise fades."""
    root = tmp_path_factory.mktemp("data")
    folder = datasets.buffer_folder(root, "cheetah_speed", "mppi_annealed")
    datasets.collect("cheetah_speed", folder, collector="mppi_annealed", **HOW)
    return root


def episodes(root):
    folder = datasets.buffer_folder(root, "cheetah_speed", "mppi_annealed")
    paths = sorted(folder.glob("*.npz"))
    return [datasets.read_episode(path) for path in paths], [dict(np.load(p)) for p in paths]


def test_noise_fades_over_the_episodes_of_a_task(root):
    """a = (1 - e) p + e u with e from 1 to 0, so that the last episode is the demonstrator's."""
    read, arrays = episodes(root)
    assert [episode.length for episode in read] == [LENGTH] * 10
    (speed,) = {float(each["parameters"][0, 0]) for each in arrays}  # one task for all
    task = envs.task("cheetah_speed", speed=speed)
    for share, episode in zip(np.linspace(1, 0, 10), read, strict=True):
        off = episode.action - (1 - share) * episode.demonstrator
        # Three roundings of numbers up to 1.
        assert np.abs(off).max() <= share + 3 * np.finfo(np.float32).eps
        paid = datasets.relabel(episode.physics, task)[1:]
        # Both are float32 of the same float64, up to the last bit.
        np.testing.assert_allclose(episode.reward[1:, 0], paid, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(read[-1].action, read[-1].demonstrator)
    first, last = (np.abs(each.action - each.demonstrator).mean() for each in (read[0], read[-2]))
    assert first > 3 * last


def test_exorls_arrays_are_as_ever(root):
    _, arrays = episodes(root)
    required = {"observation", "action", "reward", "discount", "physics"}
    assert set(arrays[0]) == required | {"demonstrator", "parameters"}
    assert {array.dtype.name for key, array in arrays[0].items() if key != "physics"} == {"float32"}


@pytest.mark.parametrize("imitate", ["taken", "demonstrator"])
def test_imitated_actions_are_those_asked_for(root, imitate):
    """The tokens hold the actions taken in either case; what is predicted differs."""
    data = training_data(
        "cheetah_speed",
        DataConfig(
            root=str(root), algo="mppi_annealed", episodes=10, tasks=3, action_repeat=REPEAT
        ),
    )
    config = AgentConfig(trajectories=2, return_conditioning="none", imitate=imitate, loss="all")
    spec = AgentSpec(
        "cheetah_speed", 0, config, ModelConfig(), data.normalizer(1.0), 17, 6, 10, 1.0
    )
    loader = ChainLoader(data, config, spec.layout(), SEED, 3)
    tokens, chains = loader(0), loader.sampler.draw(0, 3)
    read, _ = episodes(root)
    key = "action" if imitate == "taken" else "demonstrator"
    expected = [
        np.concatenate([getattr(read[e], key)[1::REPEAT] for e in row]) for row in chains.episode
    ]
    np.testing.assert_array_equal(tokens.action, expected)
    taken = replace(config, imitate="taken")
    as_taken = ChainLoader(data, taken, spec.layout(), SEED, 3)(0)
    np.testing.assert_array_equal(tokens.features, as_taken.features)


def test_data_without_demonstrators_say_so(tmp_path):
    buffer = tmp_path / "walker" / "rnd" / "buffer"
    buffer.mkdir(parents=True)
    datasets.write_episode(buffer, 0, make_episode())
    store = datasets.Store(datasets.build_cache(buffer, progress=False))
    with pytest.raises(ValueError, match="hold no demonstrator's actions; collect some with"):
        store.demonstrator([0])


def test_missing_demonstrators_are_told_of_before_rewards_are_computed(tmp_path, monkeypatch):
    buffer = datasets.buffer_folder(tmp_path, "walker_speed", "rnd")
    buffer.mkdir(parents=True)
    datasets.write_episode(buffer, 0, make_episode())
    monkeypatch.setattr(datasets.Store, "relabel", lambda *_, **__: pytest.fail("relabelled"))
    config = DataConfig(root=str(tmp_path), algo="rnd", episodes=1)
    with pytest.raises(ValueError, match="hold no demonstrator's actions"):
        training_data("walker_speed", config, imitate="demonstrator")


def test_a_demonstrators_action_is_an_action(tmp_path):
    buffer = tmp_path / "walker" / "rnd" / "buffer"
    buffer.mkdir(parents=True)
    wrong = np.full((21, 6), 2.0)
    datasets.write_episode(buffer, 0, replace(make_episode(), extra={"demonstrator": wrong}))
    with pytest.raises(ValueError, match="demonstrator must be as action is"):
        datasets.build_cache(buffer, progress=False)


def test_unknown_arrays_are_ignored(tmp_path):
    """As the format's other readers do."""
    extra = {"noise": rng(0).random((21, 1))}
    path = datasets.write_episode(tmp_path, 0, replace(make_episode(), extra=extra))
    assert "noise" in np.load(path)
    assert datasets.read_episode(path).extra == {}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"data": DataConfig(length=1001)}, "data.length=1001"),
        ({"data": DataConfig(length=240, action_repeat=6, horizon=41)}, "a product of at most 240"),
        ({"agent": AgentConfig(imitate="demonstrator", learner="td3_bc")}, "agent.imitate=taken"),
    ],
)
def test_settings_that_do_not_fit_are_refused(change, said):
    with pytest.raises(UserError, match=said):
        check_command(TrainCommand(task="cheetah_speed", **change))
