"""Draws the returns that were measured while training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from experiments.reports.legends import save_with_legend
from experiments.reports.pyplot import plt

_PAIRS = plt.colormaps["tab20"].colors
"""Ten colours, each followed by a light one of its kind."""


def learning_curves(logs: Sequence[tuple[str, str, pd.DataFrame]], path: Path) -> None:
    """Draws return by training step: a panel per task, a colour per agent, a light one for n = 1.

    Each curve has its band in its own colour. Runs of one agent, which are its seeds, are thin
    lines. Their mean is drawn over them, as far as all of them reach.

    Args:
        logs: agent's name, task and `learning_curve.csv` of each run.
        path: path of the picture.
    """
    tasks = list(dict.fromkeys(task for _, task, _ in logs))
    agents = list(dict.fromkeys(agent for agent, _, _ in logs))
    figure, grid = plt.subplots(
        1, len(tasks), figsize=(5.5 * len(tasks), 4.2), squeeze=False, layout="constrained"
    )
    table = pd.concat(
        [log.assign(agent=agent, task=task, run=i) for i, (agent, task, log) in enumerate(logs)]
    )
    for axis, task in zip(grid[0], tasks, strict=True):
        rows = table[table["task"] == task]
        for (agent, number), curves in rows.groupby(["agent", "trajectories"], sort=False):
            first = number == 1 and rows["trajectories"].max() > 1
            line = "--" if first else "-"
            colour = _PAIRS[2 * (agents.index(agent) % 10) + first]  # dark, light, dark, ...
            runs = [curve for _, curve in curves.groupby("run")]
            for curve in runs:
                if len(runs) > 1:
                    axis.plot(curve["step"], curve["return"], line, color=colour, alpha=0.4, lw=0.7)
                else:
                    axis.fill_between(
                        curve["step"],
                        curve["low"],
                        curve["high"],
                        color=colour,
                        alpha=0.3 if first else 0.15,
                        lw=0,
                    )
            seeds = f", {len(runs)} seeds" if len(runs) > 1 else ""
            label = f"{agent}: attempt n = {number}{seeds}"
            axis.plot(*_mean(runs), line, color=colour, label=label)
        axis.set(title=task, xlabel="training step", ylabel="return")
        axis.grid(alpha=0.25)
    one_seed = len(logs) == len({(agent, task) for agent, task, _ in logs})
    shown = "mean and 95% interval over tasks" if one_seed else "mean; thin: each seed"
    save_with_legend(figure, path, f"return while training: {shown}")


def _mean(runs: Sequence[pd.DataFrame]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the steps and the mean of curves, interpolated between the steps of each.

    Curves may be measured at different steps. A mean over those measured at a step would jump.
    """
    first, last = max(run["step"].min() for run in runs), min(run["step"].max() for run in runs)
    steps = np.unique(np.concatenate([run["step"] for run in runs]))
    steps = steps[(first <= steps) & (steps <= last)]
    return steps, np.mean([np.interp(steps, run["step"], run["return"]) for run in runs], axis=0)
