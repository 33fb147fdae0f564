"""Environments of gymnasium run as ours do: compared with a closed form, and with gymnasium."""

import copy
import pickle
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import datasets
import envs
from datasets.consistency import domain_of
from tests.tolerances import assert_close

LENGTH = 8
LOW, HIGH = -0.25, 0.75  # of actions: powers of two, so that scaling them is exact


class Walk(gymnasium.Env):
    """Moves a point by the action; the reward is its new place. Ends early if told so."""

    observation_space = gymnasium.spaces.Box(-10.0, 10.0, (1,), np.float64)
    action_space = gymnasium.spaces.Box(LOW, HIGH, (1,), np.float64)

    def __init__(self, ends_after=None, render_mode=None):
        self.ends_after, self.steps, self.render_mode = ends_after, 0, render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.steps = self.np_random.uniform(-1, 1, 1), 0
        return self.place.copy(), {}

    def step(self, action):
        self.place, self.steps = self.place + action, self.steps + 1
        ended = self.steps == self.ends_after
        return self.place.copy(), float(self.place[0]), ended, False, {"anything": self}


class Strict(Walk):
    """Takes members of its space of actions alone. Rounded, middle - half is below 1.1."""

    action_space = gymnasium.spaces.Box(
        np.float32([1.1, 0.1, -0.3]), np.float32([4.7, 0.3, 0.7]), dtype=np.float32
    )

    def step(self, action):
        assert self.action_space.contains(action), action
        self.taken = action
        return super().step(action[:1])


class Leaving(Walk):
    """Leaves its own space of observations within an episode, by at most 0.75 a step."""

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float64)


class Choice(Walk):
    action_space = gymnasium.spaces.Discrete(2)


class Picture(Walk):
    observation_space = gymnasium.spaces.Box(0, 255, (8, 8, 3), np.uint8)


class Unbounded(Walk):
    action_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float64)


class Constant(Walk):
    action_space = gymnasium.spaces.Box(HIGH, HIGH, (1,), np.float64)


@pytest.fixture(scope="module", autouse=True)
def registered():
    ids = {
        "tests/Walk-v0": (Walk, {"max_episode_steps": LENGTH}),
        "tests/Ends-v0": (Walk, {"max_episode_steps": LENGTH, "kwargs": {"ends_after": 5}}),
        "tests/EndsLast-v0": (
            Walk,
            {"max_episode_steps": LENGTH, "kwargs": {"ends_after": LENGTH}},
        ),
        "tests/Strict-v0": (Strict, {"max_episode_steps": LENGTH}),
        "tests/Leaving-v0": (Leaving, {"max_episode_steps": LENGTH}),
        "tests/Choice-v0": (Choice, {"max_episode_steps": LENGTH}),
        "tests/Picture-v0": (Picture, {"max_episode_steps": LENGTH}),
        "tests/Unbounded-v0": (Unbounded, {"max_episode_steps": LENGTH}),
        "tests/Constant-v0": (Constant, {"max_episode_steps": LENGTH}),
        "tests/Endless-v0": (Walk, {}),
    }
    for name, (kind, settings) in ids.items():
        gymnasium.register(name, entry_point=kind, **settings)
    yield
    for name in ids:
        del gymnasium.registry[name]


TASK = "gymnasium:tests/Walk-v0"
WAYS = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda given: pickle.loads(pickle.dumps(given)),
}


def test_a_task_has_the_sizes_of_its_environment():
    assert envs.spec(TASK) == envs.Spec(1, 1, 0, LENGTH)
    assert envs.task(TASK).domain == TASK and not envs.task(TASK).hidden


def test_a_folder_names_the_environment_also_where_its_id_has_a_slash():
    folder = datasets.buffer_folder("data", TASK, "random")
    assert len(folder.parts) == 4 and domain_of(folder) == TASK
    assert datasets.buffer_folder("data", envs.task(TASK).domain, "random") == folder


@pytest.mark.parametrize(("repeat", "horizon"), [(1, None), (2, None), (2, 3)])
def test_a_vector_follows_the_closed_form(repeat, horizon):
    """Places are sums of actions spread over the environment's own range, rewards are places."""
    count, steps = 3, horizon or LENGTH // repeat
    env = envs.make_vec(TASK, count, seed=4, action_repeat=repeat, horizon=horizon)
    observation, info = env.reset()
    assert observation.dtype == np.float32 and info["physics"].shape == (count, 0)
    place = np.array([np.random.default_rng(4 + i).uniform(-1, 1) for i in range(count)])
    actions = np.random.default_rng(0).uniform(-1, 1, (steps, count, 1)).astype(np.float32)
    for step, action in enumerate(actions):
        observation, reward, terminated, truncated, _ = env.step(action)
        expected = 0
        for _ in range(repeat):
            place = place + LOW + (action[:, 0].astype(np.float64) + 1) * (HIGH - LOW) / 2
            expected = expected + place
        assert_close(observation[:, 0], place, 2 * repeat * steps)
        assert_close(reward, expected, 2 * repeat * steps)
        assert not terminated.any() and (truncated == (step == steps - 1)).all()
    with pytest.raises(gymnasium.error.ResetNeeded, match=f"lasts {steps} steps"):
        env.step(actions[0])
    again, _ = env.reset(seed=4)
    assert truncated.all()  # what was returned stays as it was
    assert_close(again[:, 0], [np.random.default_rng(4 + i).uniform(-1, 1) for i in range(3)], 1)
    over = [env.step(action)[3].tolist() for action in actions]
    assert over == [[False] * count] * (steps - 1) + [[True] * count]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_ends_of_the_range_of_actions_are_reached_and_never_left(dtype):
    env = envs.make_vec("gymnasium:tests/Strict-v0", 1, seed=0)
    env.reset()
    space = Strict.action_space
    for action, expected in ((-1, space.low), (1, space.high)):
        env.step(np.full((1, 3), action, dtype))
        taken = env.envs[0].unwrapped.taken
        assert_close(taken, expected, 4)
        assert taken.dtype == space.dtype


def test_an_environment_that_leaves_its_own_space_stops_its_collection_at_once(tmp_path):
    """The cache would refuse the episodes, which had then been collected in vain."""
    said = r"episode \d+ is not written, .* is -?\d.\d+, outside \[-1, 1\]"
    with pytest.raises(ValueError, match=said):
        datasets.collect(
            "gymnasium:tests/Leaving-v0", tmp_path, episodes=100_000, seed=3, progress=False
        )
    assert len(list(tmp_path.glob("*.npz"))) < 100


def test_the_seed_of_the_first_reset_counts_before_that_of_the_vector():
    env = envs.make_vec(TASK, 2, seed=4)
    places = env.reset(seed=[np.int64(9), None])[0][:, 0]  # a seed may be a number of numpy
    assert_close(places, [np.random.default_rng(seed).uniform(-1, 1) for seed in (9, 5)], 1)


def test_one_environment_is_one_of_a_vector():
    one, many = envs.make(TASK, seed=6), envs.make_vec(TASK, 2, seed=5)
    first, all_first = one.reset()[0], many.reset()[0]
    np.testing.assert_array_equal(first, all_first[1])
    action = np.full((2, 1), 0.5, np.float32)
    single, batch = one.step(action[0]), many.step(action)
    np.testing.assert_array_equal(single[0], batch[0][1])
    assert single[1] == batch[1][1] and one.task == many.tasks[0]
    assert one.horizon == many.horizon == LENGTH and one.action_repeat == many.action_repeat == 1
    assert one.unwrapped is one  # an agent that plays looks there for the task and the horizon
    check_env(one, skip_render_check=True)


def test_some_environments_of_a_vector_start_again():
    env = envs.make_vec(TASK, 2, seed=0)
    env.reset()
    moved = env.step(np.ones((2, 1), np.float32))[0]
    mask = np.array([True, False])
    there = env.reset(seed=[7, None], options={"reset_mask": mask})[0]
    assert there[1] == moved[1] and there[0] != moved[0]


def test_an_environment_whose_episode_is_over_is_not_stepped_on_beside_one_that_started_again():
    env, action = envs.make_vec(TASK, 2, seed=0), np.zeros((2, 1), np.float32)
    env.reset()
    for _ in range(LENGTH):
        env.step(action)
    for first in (True, False):
        env.reset(options={"reset_mask": np.array([first, not first])})
        if first:
            with pytest.raises(gymnasium.error.ResetNeeded):
                env.step(action)
    assert not env.step(action)[3].any()


def test_a_first_reset_of_some_environments_is_refused_and_changes_nothing():
    env, afresh = (envs.make_vec(TASK, 2, seed=3) for _ in range(2))
    with pytest.raises(gymnasium.error.ResetNeeded, match="of all environments"):
        env.reset(options={"reset_mask": np.array([True, False])})
    np.testing.assert_array_equal(env.reset()[0], afresh.reset()[0])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("make", [envs.make, envs.make_vec])
def test_a_copy_goes_on_as_the_original_would(way, make):
    original = make(TASK)
    original.reset()
    twin = WAYS[way](original)
    action = np.full(original.action_space.shape, 0.5, np.float32)
    for _ in range(2):
        np.testing.assert_array_equal(twin.step(action)[0], original.step(action)[0])


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("gymnasium:NoSuch-v0", "NoSuch"),
        ("gymnasium:Pendulums-v1", "Did you mean: `Pendulum`"),
        ("gymnasium:no_such_module:X-v0", "No module named 'no_such_module'"),
        ("gymnasium:.module:X-v0", "'.module' is relative; allowed: the module's whole name"),
        ("gymnasium:", "Malformed environment ID"),
        ("gymnasium:tests/Choice-v0", "actions are Discrete"),
        ("gymnasium:tests/Picture-v0", "FlattenObservation"),
        ("gymnasium:tests/Unbounded-v0", "finite low and high"),
        ("gymnasium:tests/Constant-v0", "low below high"),
        ("gymnasium:tests/Endless-v0", "registered with max_episode_steps"),
    ],
)
def test_an_environment_that_cannot_be_used_is_refused(name, says):
    with pytest.raises(ValueError, match="; allowed: ") as told:
        envs.spec(name)
    assert says in str(told.value) and "\n" not in str(told.value)


def test_an_episode_that_ends_early_is_an_error():
    env = envs.make_vec("gymnasium:tests/Ends-v0", 2)
    env.reset()
    with pytest.raises(ValueError, match="terminated after 5 of 8 steps; allowed: "):
        for _ in range(LENGTH):
            env.step(np.zeros((2, 1), np.float32))
    almost = envs.make_vec("gymnasium:tests/Ends-v0", 2, horizon=6)
    almost.reset()
    with pytest.raises(ValueError, match="terminated after 5 of 6 steps; allowed: "):
        for _ in range(6):
            almost.step(np.zeros((2, 1), np.float32))
    last = envs.make("gymnasium:tests/EndsLast-v0")
    last.reset()
    ended = [last.step(np.zeros(1, np.float32))[2:4] for _ in range(LENGTH)]
    assert ended == [(False, False)] * (LENGTH - 1) + [(False, True)]
    short = envs.make_vec("gymnasium:tests/Ends-v0", 2, horizon=5)  # nothing is lost
    short.reset()
    assert [short.step(np.zeros((2, 1)))[3].all() for _ in range(5)] == [False] * 4 + [True]


def test_wrong_tasks_and_lengths_are_refused():
    with pytest.raises(ValueError, match="does not fit the 8 steps"):
        envs.make_vec(TASK, 2, action_repeat=3, horizon=3)
    with pytest.raises(ValueError, match="share a domain"):
        envs.make_vec([TASK, "walker_walk"])
    with pytest.raises(ValueError, match="takes no parameter 'speed'"):
        envs.task(TASK, speed=1)
    with pytest.raises(ValueError, match="seed=-1 does not fit"):
        envs.make(TASK, seed=-1)
    with pytest.raises(ValueError, match="cannot be drawn later"):
        envs.render(TASK, np.zeros((1, 0)))


@pytest.mark.parametrize("make", [envs.make, envs.make_vec])
def test_wrong_calls_are_refused(make):
    env = make(TASK)
    env.reset()
    shape = env.action_space.shape
    for action in (np.zeros((*shape[:-1], 3)), np.full(shape, np.nan), np.full(shape, None)):
        with pytest.raises(ValueError, match="finite and of shape"):
            env.step(action)
    with pytest.raises(ValueError, match="no member"):
        env.reset(options={"tasks": ["walker_walk"]})
    with pytest.raises(ValueError, match="options .* are unknown"):
        env.reset(options={"task": TASK})
    with pytest.warns(UserWarning, match="without render_mode='rgb_array'"):
        assert env.render() is None
    env.close()
    for call in (env.reset, lambda: env.step(np.zeros(shape)), env.render):
        with pytest.raises(gymnasium.error.ClosedEnvironmentError):
            call()


def test_collected_episodes_are_what_the_environment_did(tmp_path):
    """They replay, an interrupted collection goes on to the same, and they are consistent."""
    folder = datasets.buffer_folder(tmp_path, TASK, "noise")
    made = datasets.collect(TASK, folder, episodes=12, collector="noise", seed=3, progress=False)
    assert made["versions"].keys() >= {"gymnasium", "mujoco"}
    report = datasets.verify(folder, progress=False)
    assert report.episodes == 12 and report.problems == {}
    assert any("gymnasium " + gymnasium.__version__ in line for line in report.remarks)
    path = folder / f"episode_000004_{LENGTH}.npz"
    episode = datasets.read_episode(path)
    assert episode.physics is None
    action = episode.action[1:, 0].astype(np.float64)
    moves = LOW + (action + 1) * (HIGH - LOW) / 2
    places = episode.observation[0, 0] + np.concatenate([[0], np.cumsum(moves)])
    assert_close(episode.observation[:, 0], places, 2 * LENGTH)
    assert_close(episode.reward[1:, 0], places[1:], 2 * LENGTH)
    before = path.read_bytes()
    path.unlink()
    datasets.collect(TASK, folder, episodes=12, collector="noise", seed=3, progress=False)
    assert datasets.read_episode(path).reward.tolist() == episode.reward.tolist()
    assert len(path.read_bytes()) == len(before)


@pytest.mark.slow
def test_half_cheetah_is_gymnasiums_own():
    """It runs on the MuJoCo that is installed here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        own, ours = gymnasium.make("HalfCheetah-v5"), envs.make("gymnasium:HalfCheetah-v5", seed=1)
    observation = own.reset(seed=1)[0]
    np.testing.assert_array_equal(ours.reset()[0], observation.astype(np.float32))
    for action in np.random.default_rng(0).uniform(-1, 1, (20, 6)).astype(np.float32):
        observation, reward, *_ = own.step(action)
        there, paid, *_ = ours.step(action)
        np.testing.assert_array_equal(there, observation.astype(np.float32))
        assert paid == reward
