"""`make_vec` behaves as gymnasium's own vector of single environments does."""

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import datasets
import envs
from tests.seeds import rng
from tests.tolerances import TINY, unit

COUNT = 3


def pair(name):
    """Makes our vector, and gymnasium's of `make`, which reset only when told to."""
    ours = envs.make_vec(name, COUNT, seed=5)
    makers = [lambda index=index: envs.make(name, seed=5 + index) for index in range(COUNT)]
    return ours, SyncVectorEnv(makers, autoreset_mode=AutoresetMode.DISABLED)


def assert_same(ours, theirs):
    """Compares results; physics counts where the mask beside it says that it is new."""
    for mine, yours in zip(ours[:-1], theirs[:-1], strict=True):
        np.testing.assert_array_equal(mine, yours, strict=True)
    mine, yours = ours[-1], theirs[-1]
    assert mine.keys() == yours.keys()
    np.testing.assert_array_equal(mine["_physics"], yours["_physics"], strict=True)
    news = mine["_physics"]
    assert (mine["physics"].shape, mine["physics"].dtype) == (
        yours["physics"].shape,
        yours["physics"].dtype,
    )
    np.testing.assert_array_equal(mine["physics"][news], yours["physics"][news])


def reset_both(ours, theirs, **given):
    """Resets both; each has its own options, as gymnasium takes the mask out of them."""
    options = given.pop("options", None)
    mine, yours = (env.reset(**given, options=options and dict(options)) for env in (ours, theirs))
    assert_same(mine, yours)


def act_both(ours, theirs, data, steps):
    for _ in range(steps):
        action = data.uniform(-1.5, 1.5, ours.action_space.shape)  # MuJoCo clips some
        assert_same(ours.step(action), theirs.step(action))


def test_masks_and_seeds_do_what_they_do_in_gymnasium():
    """Episodes end and start at different steps; families draw as they do alone."""
    ours, theirs = pair("point_mass_goal")
    data = rng()
    reset_both(ours, theirs)
    act_both(ours, theirs, data, 4)
    reset_both(ours, theirs, options={"reset_mask": np.array([False, True, False])})
    act_both(ours, theirs, data, 8)
    with pytest.raises(gymnasium.error.ResetNeeded, match="reset_mask"):
        ours.step(np.zeros(ours.action_space.shape))
    over = np.array([True, False, True])
    reset_both(ours, theirs, seed=11, options={"reset_mask": over})
    act_both(ours, theirs, data, 4)
    reset_both(
        ours, theirs, seed=[1, None, 3], options={"reset_mask": np.array([False, True, True])}
    )
    act_both(ours, theirs, data, 1)
    reset_both(ours, theirs, seed=[4, None, 6])
    act_both(ours, theirs, data, 12)
    reset_both(ours, theirs, seed=8)
    reset_both(ours, theirs)
    assert ours.tasks == [env.task for env in theirs.envs]


def test_the_others_stay_where_they_are():
    """A walker that is reset does not change its neighbours' path, also with threads."""
    ours, theirs = pair("walker_any")
    data = rng(1)
    reset_both(ours, theirs, options={"task": "walker_flip"})
    act_both(ours, theirs, data, 5)
    mask = np.array([True, False, False])
    given = {"reset_mask": mask, "task": "walker_run"}
    reset_both(ours, theirs, options=given)
    assert set(given) == {"reset_mask", "task"}
    assert [task.name for task in ours.tasks] == ["walker_run", "walker_flip", "walker_flip"]
    act_both(ours, theirs, data, 5)


def test_rewards_are_those_of_the_members_that_the_last_reset_chose():
    """Also where it chose some alone; against rewards of the states, for each member."""
    env, data = envs.make_vec("point_mass_goal", COUNT, seed=0), rng(2)
    goals = [(0.1, 0.1), (-0.1, 0.1), (0.0, -0.1)]
    for mask in ([True, True, True], [False, True, False], [True, False, True]):
        goals = goals[1:] + goals[:1]
        env.reset(options={"reset_mask": np.array(mask), "goal": goals[0]})
        _, reward, *_, info = env.step(data.uniform(-1, 1, env.action_space.shape))
        members = [task.params["goal"] for task in env.tasks]
        for earned, physics, goal in zip(reward, info["physics"], members, strict=True):
            paid = datasets.relabel(physics[None], envs.task("point_mass_goal", goal=goal))
            np.testing.assert_allclose(earned, paid[0], rtol=unit(), atol=TINY)
    assert members == [goals[0], goals[2], goals[0]]


@pytest.mark.parametrize(
    "action",
    [
        np.zeros((COUNT, 1), int),
        np.full((COUNT, 1), 3),
        [[0.1], [0.2], [0.3]],
        np.full((COUNT, 1), np.float16(0.5)),
    ],
)
def test_actions_of_any_number_type_count_as_in_gymnasium(action):
    ours, theirs = pair("cartpole_swingup")
    reset_both(ours, theirs)
    assert_same(ours.step(action), theirs.step(np.asarray(action)))


@pytest.mark.parametrize(
    "mask",
    [
        np.zeros(COUNT, bool),
        np.ones(COUNT + 1, bool),
        np.ones((COUNT, 1), bool),
        np.ones(COUNT, int),
        [True, False, True],
        None,
    ],
)
def test_a_wrong_mask_is_refused(mask):
    """In one line, as gymnasium does, and before anything has changed."""
    ours, theirs = pair("cartpole_swingup")
    reset_both(ours, theirs)
    with pytest.raises((TypeError, ValueError)):
        theirs.reset(options={"reset_mask": mask})
    with pytest.raises(
        ValueError, match=r"options\['reset_mask'\] must be a numpy array of 3 bools"
    ) as raised:
        ours.reset(seed=1, options={"reset_mask": mask})
    assert "\n" not in str(raised.value)
    act_both(ours, theirs, rng(), 2)


@pytest.mark.parametrize(
    "seed", [[1, 2], [1, 2, 3, 4], -1, [1, 2, -3], 1.5, [1, 2.0, 3], "123", 2**32, 2**32 - 1]
)
def test_a_wrong_seed_is_refused(seed):
    """In one line, before anything has changed; seeds that count beyond numpy's limit, too."""
    ours, theirs = pair("cartpole_swingup")
    reset_both(ours, theirs)
    with pytest.raises(ValueError, match="does not fit 3 environments") as raised:
        ours.reset(seed=seed)
    assert "\n" not in str(raised.value)
    act_both(ours, theirs, rng(), 2)
    reset_both(ours, theirs)
    with pytest.raises(ValueError, match="seed=-1 does not fit 1 environments"):
        envs.make("cartpole_swingup", seed=-1)


def test_other_wrong_resets_are_refused():
    ours, _ = pair("walker_any")
    mask = np.array([True, False, False])
    with pytest.raises(gymnasium.error.ResetNeeded, match="of all environments"):
        ours.reset(options={"reset_mask": mask})
    ours.reset()
    drawn = list(ours.tasks)
    with pytest.raises(
        ValueError, match=r"options \['maskk', 'task'\] are unknown; allowed: {'task': ...}"
    ):
        ours.reset(seed=3, options={"reset_mask": mask, "task": "walker_run", "maskk": 1})
    assert ours.tasks == drawn


def test_gymnasiums_statistics_follow_a_mask():
    """A wrapper that knows masks and one that splits infos both read what we return."""
    vector = gymnasium.wrappers.vector.RecordEpisodeStatistics(
        envs.make_vec("point_mass_goal", COUNT)
    )
    vector.reset(seed=0)
    earned = np.zeros(COUNT)
    for step in range(12):
        _, reward, _, over, info = vector.step(np.zeros(vector.action_space.shape))
        earned += reward
        if step == 5:
            vector.reset(options={"reset_mask": np.array([False, True, False])})
    assert over.tolist() == [True, False, True]
    np.testing.assert_allclose(info["episode"]["r"][over], earned[over], rtol=1e-12)  # sums of 12
    assert info["episode"]["l"].tolist() == [12, 0, 12]
    split = gymnasium.wrappers.vector.DictInfoToList(envs.make_vec("point_mass_goal", COUNT))
    assert [list(one) for one in split.reset()[1]] == [["physics"]] * COUNT
