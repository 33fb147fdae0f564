"""Summaries of windows and of retrieval against means that are plain to see."""

import numpy as np
import pandas as pd

from agentic_transformer.evaluation import statistics
from agentic_transformer.evaluation.context_statistics import summarize_retrieval, summarize_windows
from agentic_transformer.evaluation.records import join
from tests.evaluation.test_statistics import make_records


def of_window(window, trained, returns, condition="own", seed=0, name="at"):
    agent = f"{name} agent.trajectories={trained} eval.window={window} train.batch={128 // trained}"
    table = make_records(returns, condition, agent=agent, seed=seed)
    return table.assign(window=window, trained_trajectories=trained)


def test_windows_of_agents_that_were_trained_with_them_are_one_curve():
    records = pd.concat(
        [
            of_window(1, 1, [[1.0, 1.0]], "bc"),
            of_window(2, 2, [[0.0, 2.0], [2.0, 4.0]]),
            of_window(2, 2, [[2.0, 5.0]], seed=1),
            of_window(2, 2, [[9.0, 9.0]], "no_context"),
            make_records([[7.0, 7.0]]).assign(window=np.nan),
        ]
    )
    windows = summarize_windows(records)
    assert set(windows["agent"]) == {"at"} and set(windows["training"]) == {"window"}
    assert set(windows["task"]) == {"t"}
    figures = windows.set_index(["window", "trajectories"])[["mean", "seeds", "units"]]
    assert figures.to_dict("index") == {
        (1, 1): {"mean": 1.0, "seeds": 1, "units": 1},
        (1, 2): {"mean": 1.0, "seeds": 1, "units": 1},
        (2, 1): {"mean": 1.5, "seeds": 2, "units": 3},
        (2, 2): {"mean": 4.0, "seeds": 2, "units": 3},
    }


def test_an_agent_that_was_trained_once_is_a_curve_of_its_own():
    once = [of_window(window, 8, [[0.0, float(window)]]) for window in (2, 4)]
    windows = summarize_windows(pd.concat([*once, of_window(2, 2, [[0.0, 6.0]])]))
    assert set(windows["training"]) == {"8"}  # one agent of its own window is no curve
    assert set(windows["agent"]) == {"at"}
    last = windows[windows["trajectories"] == 2]
    assert dict(zip(last["window"], last["mean"], strict=True)) == {2: 2.0, 4: 4.0}


def hidden(distance, value, condition="retrieval"):
    return make_records([[value]], condition).assign(trajectories=5, distance=distance)


def test_retrieval_has_a_mean_for_each_distance_and_none_in_the_curves():
    records = join(
        [
            hidden(1, 8.0),
            hidden(4, 2.0),
            hidden(np.nan, 1.0, "distractors"),
            make_records([[1.0, 3.0]]).assign(action_entropy=[0.5, 0.25]),
        ]
    )
    table = summarize_retrieval(records)
    assert table[["trajectories", "mean"]].to_numpy().tolist() == [[5, 1.0], [5, 8.0], [5, 2.0]]
    np.testing.assert_array_equal(table["distance"], [np.nan, 1, 4])
    summary = statistics.summarize(records)
    assert set(summary["condition"]) == {"own", "distractors"}
    own = summary[summary["condition"] == "own"]
    assert own["action_entropy"].tolist() == [0.5, 0.25]
    assert statistics.compare(records).empty  # no condition has an n of own
    poor = records[records["condition"] != "retrieval"]
    assert summarize_retrieval(poor).empty
    # An agent that was not asked to retrieve has nothing to stand beside.
    others = pd.concat([records, poor.assign(agent="other"), poor.assign(task="other")])
    pd.testing.assert_frame_equal(summarize_retrieval(others), table)


def test_agents_of_several_batches_have_a_curve_each():
    agents = [
        of_window(window, window, [[0.0, float(window * batch)]]).assign(
            agent=f"at agent.trajectories={window} eval.window={window} train.batch={batch}"
        )
        for window in (2, 4)
        for batch in (8, 32)
    ]
    windows = summarize_windows(pd.concat(agents))
    last = windows[windows["trajectories"] == 2].set_index(["agent", "window"])["mean"]
    assert last.to_dict() == {
        ("at train.batch=8", 2): 16.0,
        ("at train.batch=8", 4): 32.0,
        ("at train.batch=32", 2): 64.0,
        ("at train.batch=32", 4): 128.0,
    }
