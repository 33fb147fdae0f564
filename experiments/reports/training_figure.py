"""Draws the loss of training runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from experiments.reports.pyplot import plt


def training_curves(logs: Sequence[tuple[str, str, pd.DataFrame]], path: Path) -> None:
    """Draws the loss by training step, one panel per agent and task, one line per run.

    The panel below shows the loss at step 0 of the trajectories, by their place in a row, where it
    was logged. A line leaves out rows whose cell is empty.

    Args:
        logs: agent's name, task and `metrics.csv` of each run.
        path: path of the PNG.
    """
    agents, tasks = (list(dict.fromkeys(names)) for names in list(zip(*logs, strict=True))[:2])
    deep = 2 if any("first_step_loss" in column for *_, log in logs for column in log) else 1
    size = (4.5 * len(agents), 2.75 * deep * len(tasks))
    figure, grid = plt.subplots(
        deep * len(tasks), len(agents), figsize=size, squeeze=False, layout="constrained"
    )
    for axis in grid.flat:
        axis.grid(alpha=0.25)
    for agent, task, log in logs:
        above, *others = grid[deep * tasks.index(task) :, agents.index(agent)][:deep]
        known = log[["step", "loss"]].dropna()
        above.plot(known["step"], known["loss"], color="#0b5fa5", linewidth=1)
        above.set(title=f"{task}: {agent}", ylabel="loss")
        places = [column for column in log if column.startswith("first_step_loss")]
        if not places:
            above.set_xlabel("training step")
            continue
        below = others[0]
        seen = below.get_legend_handles_labels()[1]
        for column, shade in zip(places, np.linspace(0.9, 0.2, len(places)), strict=True):
            place = column.removeprefix("first_step_loss").lstrip("_")
            label = f"trajectory {place} of a row" if place else "all trajectories"
            # One entry for all runs: matplotlib leaves out labels that begin with "_".
            label = "_" * (label in seen) + label
            known = log[["step", column]].dropna()
            below.plot(
                known["step"], known[column], color=plt.cm.viridis(shade), linewidth=1, label=label
            )
        below.legend(fontsize=7)
        below.set(xlabel="training step", ylabel="loss of first steps")
    for axis in grid.flat:
        if not axis.lines:
            axis.axis("off")
    figure.savefig(path, dpi=90)
    plt.close(figure)
