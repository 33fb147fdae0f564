"""What figures show is what the tables hold: every curve, band, colour and label."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from agentic_transformer.evaluation.context_statistics import (
    summarize_retrieval,
    summarize_windows,
)
from agentic_transformer.evaluation.statistics import summarize
from experiments.reports.condition_looks import LOOKS, NAMES
from experiments.reports.context_figures import entropy, retrieval, return_vs_window
from experiments.reports.return_figures import (
    agents,
    return_vs_context,
    return_vs_tokens,
)
from tests.evaluation.test_statistics import make_records
from tests.seeds import rng

CONTEXTS, ATTEMPTS = 24, 4


def records(condition, task="t", level=0.0, agent="at", seed=0):
    """Records in which all figures of a summary differ from each other."""
    data = rng(len(condition), len(agent), seed)
    shape = CONTEXTS, ATTEMPTS
    table = make_records(data.uniform(0, 8, shape) + level, condition, agent, seed)
    some = {
        name: data.uniform(0, 1, len(table))
        for name in ("repeat_miss_rate", "action_entropy", "first_action_entropy")
    }
    some["repeat_miss_rate"][:] *= np.where(data.random(len(table)) < 0.1, np.nan, 1)
    return table.assign(task=task, best_return=6.0 + level, **some)


def band(collection):
    """The ends of a band: {x: (low, high)}."""
    vertices = collection.get_paths()[0].vertices
    return {
        x: (vertices[vertices[:, 0] == x, 1].min(), vertices[vertices[:, 0] == x, 1].max())
        for x in np.unique(vertices[:, 0])
    }


def bars(container):
    """The points of error bars: {x: (middle, low, high)}, and whether they are horizontal."""
    line, _, (segments,) = container.lines
    points = zip(line.get_xydata(), segments.get_segments(), strict=True)
    return [(tuple(middle), tuple(low), tuple(high)) for middle, (low, high) in points]


def curves(axis):
    """The curves of an axis by their labels, without marks that have none."""
    found = [line for line in axis.lines if not line.get_label().startswith("_")]
    return {line.get_label(): line for line in found}


def assert_curve(axis, label, rows, over, columns, style):
    """Checks a curve, its band and its style against the rows of a summary, in any order."""
    middle, low, high = columns
    rows = rows.sort_values("trajectories")
    line = curves(axis)[label]
    np.testing.assert_array_equal(line.get_xdata(), rows[over])
    np.testing.assert_array_equal(line.get_ydata(), rows[middle])
    colour, marker, dashes = style
    assert (to_hex(line.get_color()), line.get_marker(), line.get_linestyle()) == (
        colour,
        marker or "None",
        dashes,
    )
    (of_line,) = [
        band(one) for one in axis.collections if to_hex(one.get_facecolor()[0]) == to_hex(colour)
    ]
    expected = dict(zip(rows[over], zip(rows[low], rows[high], strict=True), strict=True))
    assert of_line == expected


def test_curves_of_returns_are_those_of_the_summary(tmp_path, drawn):
    """Two tasks of other levels, rows in any order; contexts are longer than in training from the
    third attempt on, or on the other task from the fourth."""
    parts = [
        records(condition, task, level).assign(trained_trajectories=3 if level else 2)
        for task, level in (("low", 0.0), ("high", 50.0))
        for condition in ("own", "no_context", "dataset")
    ]
    parts[2]["best_return"] += 3  # as of an agent that was trained on other data
    summary = summarize(pd.concat(parts))
    anchors = pd.DataFrame(
        {
            "task": ["high"],
            "return": [70.0],
            "method": "m",
            "data": "d",
            "source": "s",
            "arxiv": "1",
        }
    )
    shuffled = summary.sample(frac=1, random_state=0).sort_values("task", kind="stable")
    return_vs_context(shuffled, tmp_path / "figure.png", anchors)
    (figure,) = drawn
    panels = {axis.get_title(): axis for axis in figure.axes if axis.get_title()}
    assert len(panels) == 8
    for task, level in (("low", 0.0), ("high", 50.0)):
        titles = {
            "mean": "return of the n-th attempt",
            "best_mean": "best of n attempts (paper protocol)",
            "found": "found (half of the best return)",
            "repeat_miss_rate": "repeat miss rate (points of 20 rollouts or more)",
        }
        for column, title in titles.items():
            axis = panels[f"{task}: {title}"]
            prefix = {"mean": "", "best_mean": "best_"}.get(column, f"{column}_")
            columns = column, f"{prefix}low", f"{prefix}high"
            own = summary[summary["task"] == task]
            if column == "repeat_miss_rate":
                own = own[own["repeat_miss_units"] >= 20]
            for condition, rows in own.groupby("condition"):
                style = LOOKS[condition][1:]
                assert_curve(axis, NAMES[condition], rows, "trajectories", columns, style)
            lines = curves(axis)
            assert ("best of the data" in lines) == (column in ("mean", "best_mean"))
            if "best of the data" in lines:
                best = 6.0 + level + (task == "low")  # the mean of the three conditions'
                assert set(lines["best of the data"].get_ydata()) == {best}
            published = [text for text in axis.texts if text.get_text().endswith(": 70")]
            assert len(published) == (task == "high" and column == "mean")
            assert [tick.get_text() for tick in axis.get_xticklabels()] == ["1", "2", "4"]
            (shade,) = axis.patches
            first = 4 if level else 3
            assert first - 1 < shade.get_x() < first and shade.get_x() + shade.get_width() > 4
        left, right = (panels[f"{task}: {titles[name]}"] for name in ("mean", "best_mean"))
        assert left.get_ylim() == right.get_ylim()
    above = [axis for axis in figure.axes if axis.get_xlabel() == "steps in the context"]
    labels = [[tick.get_text() for tick in axis.get_xticklabels()] for axis in above]
    assert labels == [["0", "12", "36"]] * 2
    assert figure.get_suptitle() == "mean and 95% interval over 24 rollouts, one seed"


def test_the_title_says_over_how_many_contexts_and_seeds(tmp_path, drawn):
    table = pd.concat([records("own", seed=seed) for seed in (0, 1)])
    return_vs_context(summarize(table), tmp_path / "figure.png")
    assert drawn[0].get_suptitle() == "t: mean and 95% interval over 2 seeds (48 rollouts)"


def test_agents_stand_beside_their_names_with_their_last_returns(tmp_path, drawn):
    """Each in a row of its own, in its place whichever rows there are; one panel for each task."""
    parts = [
        records(condition, task, level, agent)
        for task, level in (("low", 0.0), ("high", 50.0))
        for agent, condition in (
            *(("a", "own"), ("a", "no_context"), ("bb", "own")),
            *(("ccc", "no_context"), ("ccc", "own")),
        )
    ]
    summary = summarize(pd.concat(parts))
    agents(summary, tmp_path / "figure.png")
    figure = drawn[0]
    ticks = figure.axes[0].get_yticks()
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    for axis, task in zip(figure.axes, ("low", "high"), strict=True):
        assert axis.get_title() == f"{task}: attempt 4"
        last = summary[(summary["task"] == task) & (summary["trajectories"] == ATTEMPTS)]
        last = last.set_index(["agent", "condition"])
        shown = {}
        for container in axis.containers:
            (condition,) = [value for value, name in NAMES.items() if name == container.get_label()]
            assert to_hex(container.lines[0].get_color()) == LOOKS[condition].colour
            for (mean, height), (low, _), (high, _) in bars(container):
                near = names[int(np.abs(ticks - height).argmin())]
                shown[near, condition] = mean, low, high
        assert shown.keys() == set(last.index)
        for key, found in shown.items():
            np.testing.assert_allclose(found, last.loc[key, ["mean", "low", "high"]].astype(float))


def test_returns_stand_over_the_tokens_of_their_contexts(tmp_path, drawn):
    """Points whose context is longer than that of training are hollow; what has none is left out.

    A training context of three trajectories holds two before the last one.
    """
    bare = records("no_context").assign(context_tokens=0, context_steps=0)
    own = records("own").assign(trained_trajectories=3)
    summary = summarize(pd.concat([own, bare]))
    return_vs_tokens(summary, tmp_path / "figure.png")
    (axis,) = drawn[0].axes
    own = summary[summary["condition"] == "own"]
    assert own["context_tokens"].tolist() == [0, 48, 96, 144]
    columns = "mean", "low", "high"
    assert_curve(axis, NAMES["own"], own, "context_tokens", columns, LOOKS["own"][1:])
    assert list(curves(axis)) == [NAMES["own"]]
    (hollow,) = [line for line in axis.lines if to_hex(line.get_color()) == "#ffffff"]
    np.testing.assert_array_equal(hollow.get_xdata(), [144])
    np.testing.assert_array_equal(hollow.get_ydata(), own["mean"].iloc[-1:])


def assert_bars(container, rows, over):
    """Checks a curve with error bars against the rows of a table."""
    rows = rows.sort_values(over)
    for found, row in zip(bars(container), rows.to_dict("records"), strict=True):
        expected = [(row[over], row[name]) for name in ("mean", "low", "high")]
        np.testing.assert_allclose(found, expected)


def darkness(container):
    """How dark a curve is: the less its three colours are together, the darker."""
    return -sum(container.lines[0].get_color()[:3])


def test_returns_stand_over_windows(tmp_path, drawn):
    """Agents that were trained with their window, and one that was trained once."""
    name = "at agent.trajectories={} eval.window={} train.batch=1"
    parts = [
        records("own", agent=name.format(trained, window)).assign(
            window=window, trained_trajectories=trained
        )
        for window, trained in ((1, 1), (2, 2), (4, 4), (1, 8), (2, 8))
    ]
    windows = summarize_windows(pd.concat(parts))
    return_vs_window(windows, tmp_path / "figure.png")
    panels = {axis.get_title(): axis for axis in drawn[0].axes if axis.get_visible()}
    kinds = {"window": "trained with its window", "8": "trained with 8"}
    assert set(panels) == {f"t: at, {kind}" for kind in kinds.values()}
    for training, kind in kinds.items():
        axis = panels[f"t: at, {kind}"]
        assert [one.get_label() for one in axis.containers] == [f"attempt {n}" for n in (1, 2, 4)]
        rows = windows[windows["training"] == training]
        for number, container in zip((1, 2, 4), axis.containers, strict=True):
            assert_bars(container, rows[rows["trajectories"] == number], "window")
        shades = list(map(darkness, axis.containers))
        assert shades == sorted(shades) and len(set(shades)) == 3


def test_returns_stand_over_the_distance_of_what_is_to_be_found(tmp_path, drawn):
    """At the right, beyond all distances, stand the contexts without it."""
    parts = [
        one[one["trajectories"] == n].assign(distance=distance)
        for n, distances in ((2, [1]), (4, [1, 2, 3]))
        for distance in (*distances, np.nan)
        for one in [records("distractors" if np.isnan(distance) else "retrieval", seed=n)]
    ]
    parts[1:-1] = [
        part.assign(**{"return": part["return"] + i}) for i, part in enumerate(parts[1:-1])
    ]
    table = summarize_retrieval(pd.concat(parts))
    retrieval(table, tmp_path / "figure.png")
    (axis,) = drawn[0].axes
    ticks = dict(
        zip(axis.get_xticks(), [text.get_text() for text in axis.get_xticklabels()], strict=True)
    )
    assert ticks == {1: "1", 2: "2", 6: "none"}
    hidden = table[table["condition"] == "retrieval"]
    poor = table[table["condition"] == "distractors"].assign(distance=6)
    colours = []
    for number, (found, without) in zip(
        (2, 4), (axis.containers[:2], axis.containers[2:]), strict=True
    ):
        assert found.get_label() == f"{number - 1} in the context"
        assert_bars(found, hidden[hidden["trajectories"] == number], "distance")
        assert_bars(without, poor[poor["trajectories"] == number], "distance")
        of_both = {tuple(one.lines[0].get_color()) for one in (found, without)}
        assert len(of_both) == 1
        colours += of_both
    assert len(set(colours)) == 2


@pytest.mark.parametrize("conditions", [("own",), ("own", "no_context")])
def test_entropies_stand_over_attempts(conditions, tmp_path, drawn):
    summary = summarize(pd.concat([records(condition) for condition in conditions]))
    entropy(summary, tmp_path / "figure.png")
    panels = {axis.get_title(): axis for axis in drawn[0].axes}
    whats = {"first_action_entropy": "first action", "action_entropy": "mean over the attempt"}
    assert set(panels) == {f"t: at, {what}" for what in whats.values()}
    for column, what in whats.items():
        containers = panels[f"t: at, {what}"].containers
        assert [one.get_label() for one in containers] == [NAMES[one] for one in conditions]
        for condition, container in zip(conditions, containers, strict=True):
            assert to_hex(container.lines[0].get_color()) == LOOKS[condition].colour
            rows = summary[summary["condition"] == condition]
            rows = rows[rows["trajectories"].isin([1, 2, 4])].assign(
                mean=rows[column], low=rows[f"{column}_low"], high=rows[f"{column}_high"]
            )
            assert_bars(container, rows, "trajectories")
