"""Draws the figures of suite `data` from its tables alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from experiments.reports.pyplot import plt


def plot(folder: Path) -> None:
    """Draws `speed.png` and `returns.png` from the two tables in a folder."""
    _plot_speed(pd.read_csv(folder / "measurements.csv"), folder / "speed.png")
    _plot_returns(pd.read_csv(folder / "returns.csv"), folder / "returns.png")


def _plot_speed(table: pd.DataFrame, path: Path) -> None:
    """Draws how many times as fast each way is, one panel per group."""
    figure, axes = plt.subplots(1, 3, figsize=(15, 4), layout="constrained")
    for axis, group in zip(axes, ("relabelling", "stepping", "sampling"), strict=True):
        own = table[(table.group == group) & (table.unit == "x")]
        labels = own["item"].str.replace(
            ": against the reference|: against dm_control", "", regex=True
        )
        axis.barh(labels, own["value"] - 1, left=1, color="tab:blue", label="measured")
        axis.axvline(1, color="black", linewidth=0.8)
        axis.plot(own["at_least"], range(len(own)), "k|", markersize=18, label="at least")
        axis.set(xlabel="times as fast, CPU time", title=group, xscale="log")
        axis.invert_yaxis()
    axes[0].legend()
    figure.savefig(path, dpi=100)


def _plot_returns(table: pd.DataFrame, path: Path) -> None:
    """Draws histograms of returns, one panel per buffer."""
    groups = list(table.groupby("buffer", sort=False))
    columns = 4
    rows = -(-len(groups) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(4 * columns, 3 * rows), layout="constrained", squeeze=False
    )
    for axis, (buffer, own) in zip(axes.flat, groups, strict=False):
        bins = np.linspace(0, max(own["return"].max(), 1), 21)
        for task, episodes in own.groupby("task", sort=False):
            axis.hist(episodes["return"], bins=bins, histtype="step", label=task)
        axis.set(
            title=f"{buffer}, {own.episode.nunique()} episodes", xlabel="return", ylabel="episodes"
        )
        axis.legend(fontsize=6)
    for axis in axes.flat[len(groups) :]:
        axis.remove()
    figure.savefig(path, dpi=100)
