"""Draws the returns of a sweep's agents against a numeric setting that the sweep varies."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from agentic_transformer.config import BASELINES
from experiments.reports.condition_looks import LOOKS, Look
from experiments.reports.curves import draw_curve, from_to
from experiments.reports.legends import save_with_legend
from experiments.reports.pyplot import plt

_CONDITIONS = ("own", "no_context", *BASELINES)
"""The conditions that are drawn: the agent, its control, and agents without a context."""

_LINES = ("-", "--", ":", "-.")


def return_vs_setting(setting: str, table: pd.DataFrame, path: Path) -> None:
    """Draws the return of the last attempt against a setting: a panel per task, a colour per agent.

    The own context is a solid line; the empty one and agents without a context have other lines.

    Args:
        setting: its name.
        table: from `experiments.reports.variants_table.returns_by_setting`.
        path: path of the picture.
    """
    shown = table[table["condition"].isin(_CONDITIONS)]
    table = table if shown.empty else shown  # of oracles alone, say
    agents, tasks = (list(dict.fromkeys(table[column])) for column in ("agent", "task"))
    conditions = list(dict.fromkeys(table["condition"]))
    figure, grid = plt.subplots(
        1, len(tasks), figsize=(6 * len(tasks), 4.4), squeeze=False, layout="constrained"
    )
    for axis, task in zip(grid[0], tasks, strict=True):
        rows = table[table["task"] == task]
        for (agent, condition), curve in rows.groupby(["agent", "condition"], sort=False):
            name, colour, marker, _ = LOOKS[condition]
            if len(agents) > 1:
                name, colour = f"{agent}: {name}", f"C{agents.index(agent) % 10}"
            line = _LINES[conditions.index(condition) % len(_LINES)]
            draw_curve(axis, curve, "value", Look(name, colour, marker, line), marker_size=5)
        values = sorted(rows["value"].unique())
        if values[0] > 0 and values[-1] >= 8 * values[0]:
            axis.set_xscale("log")
        axis.set_xticks(values, [f"{value:g}" for value in values])
        axis.minorticks_off()
        n = from_to(rows["trajectories"])
        axis.set(title=task, xlabel=setting, ylabel=f"return of the last attempt, n = {n}")
        axis.grid(alpha=0.25)
    seeds = from_to(table["seeds"])
    save_with_legend(figure, path, f"mean and 95% interval; seeds: {seeds}")
