"""The report of plans."""

import dataclasses

import matplotlib.pyplot as plt

from agentic_transformer.capacity.plan import Plan
from experiments.reports import capacity
from tests.capacity.test_estimates import MODEL, workload


def test_plans_of_one_title_have_bars_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(plt, "close", lambda _: None)
    capacity.draw(
        [Plan(workload()), Plan(workload()), Plan(workload("v5p:4x4x4"))], tmp_path / "plan.png"
    )
    axis = plt.gcf().axes[0]
    assert [round(bar.get_y() + bar.get_height() / 2, 6) for bar in axis.containers[0]] == [0, 1, 2]
    assert [label.get_text().split(" on ")[1] for label in axis.get_yticklabels()] == [
        *2 * ["v5e:4x4\n131,072 tokens"],
        "v5p:4x4x4\n524,288 tokens",
    ]
    monkeypatch.undo()
    plt.close("all")


def test_a_contiguous_ring_has_rows_for_its_longer_steps():
    for order, rows in (("zigzag", 2), ("contiguous", 4)):
        model = dataclasses.replace(MODEL, layout=order)
        text = capacity.section(Plan(workload(model=model)))
        assert f"attention: ring in {order} order." in text
        assert text.count("8,192 tokens a device") == rows
        assert text.count(", after the first |") == rows - 2
