"""Data of another domain, or with wrong observations, are found before training."""

from dataclasses import replace

import numpy as np
import pytest
from fabricated import make_buffer, make_episode

import datasets
from agentic_transformer.config import DataConfig, VerifyCommand
from agentic_transformer.contexts.training_data import open_store
from agentic_transformer.errors import UserError
from agentic_transformer.validation import check_command
from datasets import Episode
from datasets.consistency import problems_of
from envs.readings import observations_of
from envs.registry import domain_spec, domains
from tests.envs.oracle import Oracle
from tests.seeds import rng

# Entries of an observation that take forces or accelerations: quadruped's 3 accelerations, and 3
# forces and 3 torques of each of 4 toes; the touch of hopper's toe and heel; the torques of jaco's
# 6 joints.
UNTOLD = {"quadruped": 27, "hopper": 2, "jaco": 6}
NAMES = {
    "cartpole": "cartpole_swingup",
    "cheetah": "cheetah_run",
    "walker": "walker_run",
    "quadruped": "quadruped_run",
    "hopper": "hopper_hop",
    "jaco": "jaco_reach_top_left",
    "point_mass_maze": "point_mass_maze_reach_top_left",
}


@pytest.fixture(scope="module")
def episodes():
    """An episode of every domain, from dm_control's own environments."""
    made = {}
    for domain, task in NAMES.items():
        spec, oracle, data = domain_spec(domain), Oracle(task, seed=1), rng()
        action = data.uniform(-1, 1, (41, spec.action)).astype(np.float32)
        action[0] = 0
        observation, physics = [oracle.reset()], [oracle.physics.get_state()]
        for taken in action[1:]:
            observation.append(oracle.step(taken.astype(np.float64))[0])
            physics.append(oracle.physics.get_state())
        ones, observation = np.ones((41, 1), np.float32), np.array(observation, np.float32)
        made[domain] = Episode(observation, action, 0 * ones, ones, np.array(physics))
    return made


@pytest.mark.parametrize("domain", NAMES)
def test_episodes_of_dm_control_are_consistent(domain, episodes):
    """This holds for physics in float32, as third-party sets have it, and without physics, too."""
    episode = episodes[domain]
    for physics in (episode.physics, episode.physics.astype(np.float32), None):
        assert problems_of(replace(episode, physics=physics), domain) == []


@pytest.mark.parametrize("domain", NAMES)
def test_another_domain_is_reported_and_the_right_one_named(domain, episodes):
    for other in set(domains()) - {domain, "point_mass"}:
        (problem,) = problems_of(episodes[domain], other)
        assert problem.startswith(f"not {other}'s") and problem.endswith(f"nearest match: {domain}")


@pytest.mark.parametrize("domain", NAMES)
def test_every_entry_that_physics_determines_is_compared(domain, episodes):
    """An error of 0.01 in any entry of one row is found, but for entries that depend on forces."""
    episode = episodes[domain]
    found = []
    for entry in range(episode.observation.shape[1]):
        observation = episode.observation.copy()
        observation[-1, entry] += 0.01
        found.append(bool(problems_of(replace(episode, observation=observation), domain)))
    assert found.count(False) == UNTOLD.get(domain, 0)
    told = observations_of(domain, episode.physics)
    assert found == (~np.isnan(told).any(axis=0)).tolist()


@pytest.mark.parametrize("domain", ["walker", "quadruped", "hopper"])
def test_an_observation_in_another_order_is_reported(domain, episodes):
    """Some adapters sort the parts of an observation by name, which keeps its size."""
    environment = Oracle(NAMES[domain], seed=1).environment
    parts = environment.reset().observation
    ends = np.cumsum([np.size(part) for part in parts.values()])
    columns = dict(zip(parts, np.split(np.arange(ends[-1]), ends[:-1]), strict=True))
    order = np.concatenate([columns[key] for key in sorted(columns)])
    episode = replace(episodes[domain], observation=episodes[domain].observation[:, order])
    (problem,) = problems_of(episode, domain)
    assert "its physics shows" in problem


@pytest.mark.parametrize(
    ("field", "size", "says"),
    [
        ("action", 3, "action 3, physics 18 numbers a row, expected observation 24, action 6"),
        ("action", 2, "action 2"),
        ("observation", 17, "observation 17, action 6, physics 18 numbers a row, expected"),
        ("physics", 17, "physics 17 numbers a row, expected"),
    ],
)
@pytest.mark.parametrize("bare", [False, True], ids=["with physics", "without physics"])
def test_wrong_sizes_are_reported_when_data_are_cached_and_verified(
    field, size, says, bare, tmp_path
):
    """Training would not stop at wrong sizes. The error is one line and names the file."""
    if bare and field == "physics":
        return
    episode = make_episode()
    changed = {field: getattr(episode, field)[:, :size]} | ({"physics": None} if bare else {})
    episode = replace(episode, **changed)
    buffer = tmp_path / "walker" / "pd" / "buffer"
    buffer.mkdir(parents=True)
    path = datasets.write_episode(buffer, 0, episode)
    (problem,) = datasets.verify(buffer, progress=False).problems.values()
    assert says.replace(", physics 18", "" if bare else ", physics 18") in problem
    with pytest.raises(ValueError) as told:
        open_store("walker_run", DataConfig(root=str(tmp_path)))
    assert str(told.value) == f"{path}: {problem}"
    assert "\n" not in problem
    assert not buffer.with_suffix(".h5").exists()


def test_data_of_another_body_are_not_cached(tmp_path):
    """Walker's data in cheetah's folder have the right sizes of physics and action."""
    make_buffer(tmp_path / "cheetah" / "pd" / "buffer", 2)
    said = r"episode_000000_20.npz: not cheetah's: .*; nearest match: walker"
    with pytest.raises(ValueError, match=said):
        open_store("cheetah_run", DataConfig(root=str(tmp_path)))


def test_episodes_are_checked_once(tmp_path, monkeypatch):
    """They are checked when they are cached, and again only for another domain."""
    checked = []

    def noted(episode, domain):
        checked.append(domain)
        return problems_of(episode, domain)

    monkeypatch.setattr("datasets.consistency.problems_of", noted)
    buffer = make_buffer(tmp_path / "walker" / "pd" / "buffer", 2)
    for _ in range(2):
        datasets.build_cache(buffer, progress=False)
    assert checked == ["walker"] * 2
    datasets.write_episode(buffer, 2, make_episode(seed=2))
    datasets.build_cache(buffer, progress=False)
    assert checked == ["walker"] * 3
    link = tmp_path / "cheetah" / "pd"
    link.parent.mkdir()
    link.symlink_to(buffer.parent)
    with pytest.raises(ValueError, match="not cheetah's"):
        datasets.build_cache(link / "buffer", progress=False)
    assert datasets.Store(datasets.build_cache(buffer, progress=False)).episodes == 3


def test_a_folder_of_any_name_is_checked_where_a_domain_is_given(tmp_path):
    buffer = make_buffer(tmp_path / "mine", 2)
    report = datasets.verify(buffer, progress=False)
    assert report.problems == {} and "not checked" in report.remarks[0]
    datasets.build_cache(buffer, progress=False)
    problems = datasets.verify(buffer, "cheetah", progress=False).problems
    assert set(problems) == {path.name for path in buffer.glob("*.npz")}
    with pytest.raises(ValueError, match="nearest match: walker"):
        datasets.build_cache(buffer, "cheetah", progress=False)
    with pytest.raises(ValueError, match="nearest match: 'cheetah'"):
        datasets.verify(buffer, "chetah", progress=False)


def test_episodes_longer_than_the_environments_are_reported():
    """Training would accept them, and evaluation would fail."""
    (problem,) = problems_of(make_episode(1001), "walker")
    assert "1001 transitions, an episode has at most 1000" in problem


@pytest.mark.parametrize(
    ("largest", "good"),
    [(1 + 2**-23, True), (-1 - 2**-22, True), (1.0001, False), (-1.0001, False)],
)
def test_actions_may_exceed_their_range_by_rounding_alone(largest, good):
    action = make_episode().action.copy()
    action[5, 2] = largest
    assert (problems_of(replace(make_episode(), action=action), "walker") == []) == good


def test_a_reward_of_the_reset_is_reported():
    reward = make_episode().reward.copy()
    reward[0] = 0.5
    (problem,) = problems_of(replace(make_episode(), reward=reward), "walker")
    assert "not a reset" in problem


@pytest.mark.parametrize(
    ("size", "largest", "good"), [(6, 1, True), (6, 1.5, False), (6, -1.5, False), (5, 1, False)]
)
def test_a_demonstrators_actions_are_checked_as_actions_are(size, largest, good):
    shown = {"demonstrator": np.full((21, size), largest, np.float32)}
    assert (problems_of(replace(make_episode(), extra=shown), "walker") == []) == good


def test_the_command_knows_every_domain():
    for name in (*domains(), "gymnasium:Pendulum-v1", None):
        check_command(VerifyCommand(path="x", domain=name))
    with pytest.raises(UserError, match="domain=chetah: no such domain(.|\n)*nearest: cheetah"):
        check_command(VerifyCommand(path="x", domain="chetah"))
    with pytest.raises(UserError, match="Environment `No` doesn't exist"):
        check_command(VerifyCommand(path="x", domain="gymnasium:No-v0"))
