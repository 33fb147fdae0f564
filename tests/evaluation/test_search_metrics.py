"""The repeat miss rate on positions set by hand."""

import numpy as np

from agentic_transformer.evaluation.search_metrics import RepeatMissRate
from envs import Task
from envs.registry import Params

STEPS = 6
EAST, WEST, NOWHERE = (0.15, 0.0), (-0.15, 0.0), (0.0, 0.0)


def test_the_rate_is_the_share_of_tried_tasks_that_were_missed_before():
    tasks = [Task("point_mass_goal", Params({"goal": goal})) for goal in (EAST, WEST)]
    metric = RepeatMissRate(tasks, best_return=np.full(2, float(STEPS)), action_repeat=1)

    def attempt(*places):
        """Both agents stand still at a place each; standing on one's own goal pays 1 a step."""
        physics = np.zeros((2, STEPS + 1, 4))
        physics[:, :, :2] = np.array(places)[:, None]
        reward = np.array(
            [place == task.params["goal"] for place, task in zip(places, tasks, strict=True)], float
        )
        return metric.update(physics, np.repeat(reward[:, None], STEPS, axis=1)).tolist()

    nan = np.nan
    found = [
        attempt(WEST, WEST),
        attempt(WEST, WEST),
        attempt(NOWHERE, WEST),
        attempt(EAST, EAST),
        attempt(WEST, EAST),
    ]
    # The first agent misses, tries the same again, tries nothing, finds its goal, and searches no
    # more. The second finds its goal at once.
    np.testing.assert_array_equal(found, [[nan, nan], [1, nan], [nan, nan], [0, nan], [nan, nan]])


def test_every_step_of_a_held_action_counts_and_the_state_before_the_first_does_not():
    """Two agents search for one goal. Half of a task's best return finds it: here 6, 6 and 4."""
    tasks = [Task("point_mass_goal", Params({"goal": goal})) for goal in (EAST, EAST, WEST)]
    metric = RepeatMissRate(tasks, best_return=np.array([12.0, 12.0, 8.0]), action_repeat=2)

    def attempt(*paths, earned):
        """Each agent visits its places from the given step on, then stands at the origin."""
        physics = np.zeros((3, STEPS + 1, 4))
        for row, (first, places) in enumerate(paths):
            physics[row, first : first + len(places), :2] = places
        return metric.update(physics, np.array(earned)[:, None] / STEPS * np.ones(STEPS)).tolist()

    nan = np.nan
    # The first and the third agent miss. The second earns exactly half of the best return.
    first = attempt((1, [WEST] * 2), (1, [WEST] * 2), (1, [EAST] * 3), earned=[0, 6, 0])
    np.testing.assert_array_equal(first, [nan, nan, nan])
    # One step at the goal, of 2, is too few; where the attempt begins does not count.
    second = attempt((0, [WEST] * 2), (1, [WEST] * 2), (1, [NOWHERE]), earned=[0, 0, 0])
    np.testing.assert_array_equal(second, [nan, nan, nan])
    both = [EAST] * 3 + [WEST] * 2
    third = attempt((1, [WEST] * 2), (1, [WEST] * 2), (1, both), earned=[0, 0, 4])
    np.testing.assert_array_equal(third, [1, nan, 0.5])
