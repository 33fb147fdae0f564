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
