"""Published returns are drawn where unit and steps agree with ours, and never else."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

import envs
from agentic_transformer.evaluation.statistics import summarize
from experiments.reports import figures
from experiments.reports.anchors import anchor_label, choose_anchors, read_anchors
from experiments.reports.presentation import present
from tests.evaluation.test_statistics import make_records
from tests.reports.test_presentation import RETURNS, make_run


def summary_of(task, *steps):
    return summarize(
        pd.concat(
            make_records(RETURNS, agent=f"of {length}").assign(task=task, episode_steps=length)
            for length in steps
        )
    )


def test_published_returns_name_their_source_and_tasks_of_ours():
    published = read_anchors()
    assert published[["source", "domain", "method", "return", "unit"]].notna().all().all()
    assert set(published["task"].dropna()) <= set(envs.tasks())
    named = published.dropna(subset="task")
    assert [envs.task(task).domain for task in named["task"]] == named["domain"].tolist()
    raw = named[named["unit"] == "raw return"]
    assert (raw["steps"] == [envs.spec(task).length for task in raw["task"]]).all()
    # At most 1 is paid for each step.
    assert raw["return"].between(0, raw["steps"]).all()


def test_whole_episodes_have_the_published_returns_of_their_task():
    chosen, reasons = choose_anchors(summary_of("walker_stand", 1000), read_anchors())
    assert set(chosen["task"]) == {"walker_stand"} and set(chosen["unit"]) == {"raw return"}
    assert sorted(chosen["return"]) == [558, 624, 993]
    assert reasons == ["no anchor, walker_stand: 4 have another unit than ours (as reported)"]
    assert anchor_label(chosen.iloc[0]) == "TD-MPC2 (online), arXiv 2310.16828: 993"


@pytest.mark.parametrize(
    ("task", "steps", "says"),
    [
        ("walker_flip", (250,), "2 are of episodes of 1000 steps, ours have 250"),
        ("walker_flip", (250, 1000), "ours are of episodes of 250 and 1000 steps"),
        ("walker_flip", (np.nan,), "records of an earlier version do not tell an episode's steps"),
        ("jaco_reach_top_left", (250,), "no published return is listed in anchors.csv"),
    ],
)
def test_other_protocols_have_none_and_it_is_said_why(task, steps, says):
    chosen, reasons = choose_anchors(summary_of(task, *steps), read_anchors())
    assert chosen.empty and reasons == [f"no anchor, {task}: {says}"]


def test_plot_draws_them_on_request_alone(tmp_path, capsys, monkeypatch):
    # The line of the best of the data fixes the axis, which published returns then widen.
    records = make_records(RETURNS).assign(
        task="walker_flip", episode_steps=1000, best_return=200.0
    )
    run = make_run(tmp_path / "run", records)
    drawn = []
    monkeypatch.setattr(figures, "return_vs_tokens", lambda *_: None)
    monkeypatch.setattr(plt, "close", lambda figure: drawn.append(figure))
    for anchors in (False, True):
        present([run], tmp_path / "out", anchors=anchors)
    without, with_them = ([text.get_text() for text in f.axes[0].texts] for f in drawn)
    assert not [text for text in without if "arXiv" in text]
    assert with_them[:2] == [f"{m} (RND, 100k transitions), arXiv 2309.15178: {value}"
                             for m, value in (("FB", 163), ("VC-FB", 325))]  # fmt: skip
    heights = [line.get_ydata()[0] for line in drawn[1].axes[0].lines if line.is_dashed()]
    assert heights == [200, 163, 325] and drawn[1].axes[0].get_ylim()[1] > 325
    make_run(tmp_path / "short", records.assign(episode_steps=250))
    present([tmp_path / "short"], tmp_path / "out", anchors=True)
    assert "2 are of episodes of 1000 steps, ours have 250" in capsys.readouterr().out
    assert not [t for t in drawn[2].axes[0].texts if "arXiv" in t.get_text()]


def test_they_stand_beside_several_agents_too(tmp_path, monkeypatch):
    records = make_records(RETURNS).assign(task="walker_flip", episode_steps=1000)
    runs = [
        make_run(tmp_path / name, records.assign(agent=name), f"agent: {{name: {name}}}\n")
        for name in ("a", "b")
    ]
    drawn = []
    monkeypatch.setattr(plt, "close", lambda figure: drawn.append(figure))
    present(runs, tmp_path / "out", anchors=True)
    texts = [text.get_text() for text in drawn[0].axes[0].texts]
    assert len([text for text in texts if "arXiv" in text]) == 2


def test_those_below_our_curves_are_seen_too(tmp_path, drawn):
    """An agent near the top return, and the panels keep their size."""
    records = make_records(np.add(RETURNS, 960.0)).assign(task="walker_stand", best_return=985.0)
    summary = summarize(records)
    published, _ = choose_anchors(summary_of("walker_stand", 1000), read_anchors())
    for anchors in (None, published):
        figures.return_vs_context(summary, tmp_path / "figure.png", anchors)
    without, with_them = (
        [axis for axis in figure.axes if axis.get_ylabel().startswith("return")] for figure in drawn
    )
    texts = [text for text in with_them[0].texts if "arXiv" in text.get_text()]
    labels = [text.get_window_extent().get_points() for text in texts]
    (_, bottom), (_, top) = with_them[0].get_window_extent().get_points()
    assert len(labels) == 3 and all(bottom < ends[0, 1] and ends[1, 1] < top for ends in labels)
    assert with_them[0].get_ylim() == with_them[1].get_ylim()
    for before, after in zip(without, with_them, strict=True):
        assert after.get_position().width == pytest.approx(before.get_position().width, rel=0.05)
