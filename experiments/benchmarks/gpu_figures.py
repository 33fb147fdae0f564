"""Draws the figures of suite `gpu`, one for each question, from its CSVs alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
from matplotlib.ticker import LogLocator

from experiments.reports.pyplot import plt

_DIRECTIONS = {"forward": "forward", "both": "forward and backward"}


def plot(folder: Path) -> None:
    """Draws `<part>.png` for each part whose CSV holds a measure."""
    for name, (draw, needed) in _FIGURES.items():
        path = folder / f"{name}.csv"
        if path.exists():
            table = pd.read_csv(path)
            if needed in table and (table := table.dropna(subset=needed)).size:
                figure = draw(table)
                figure.savefig(folder / f"{name}.png", dpi=120)
                plt.close(figure)


def _exactness(table: pd.DataFrame) -> plt.Figure:
    figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
    table["case"] = table.dtype + ", " + table.precision + "\n" + table.way
    table.plot.barh(x="case", y=["output", "dquery", "dkey", "dvalue"], ax=axes, width=0.8)
    axes.set(xscale="log", xlabel="relative rms error against float64", ylabel="")
    axes.set_title(f"How exact? {table.tokens.iloc[0]:,} tokens, causal")
    axes.invert_yaxis()
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    figure.set_figheight(1.5 + 0.45 * len(table))
    return figure


def _attention(table: pd.DataFrame) -> plt.Figure:
    def draw(rows: pd.DataFrame, axis: plt.Axes) -> None:
        for name, of_name in rows.sort_values("tokens").groupby("name", sort=False):
            axis.loglog(of_name.tokens, of_name.teraflops, "o--", label=name)
        # Ours as it was timed in turn with the first of the others: a GPU that has just run a
        # slow program is cooler, and then faster.
        ours = rows[rows.name == rows.name.iloc[0]].sort_values("tokens")
        axis.loglog(ours.tokens, ours.ours_teraflops, "ks-", label="ours")
        axis.set_xticks(ours.tokens, ours.tokens.map("{:,}".format))
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.minorticks_off()
        axis.legend()

    return _by_shape(table, draw, xlabel="tokens", ylabel="useful TFLOP/s")


def _ring(table: pd.DataFrame) -> plt.Figure:
    def draw(rows: pd.DataFrame, axis: plt.Axes) -> None:
        rows = rows.sort_values(["tokens", "ring"])
        labels = [f"{row.tokens:,} x {row.ring}" for row in rows.itertuples()]
        axis.plot(labels, rows.of_calls_alone, "o", label="of its fused calls alone")
        axis.plot(labels, rows.of_one_call, "s", label="of one call for the whole sequence")
        axis.axhline(1, color="gray", linewidth=0.8)
        axis.set_ylim(0, 1.15)
        axis.tick_params(axis="x", rotation=40)
        axis.legend()

    return _by_shape(table, draw, xlabel="tokens a device x devices", ylabel="speed")


def _by_shape(
    table: pd.DataFrame, draw: Callable[[pd.DataFrame, plt.Axes], object], **labels: str
) -> plt.Figure:
    """Draws a panel for each number of heads (down) and direction (across)."""
    shapes = list(table.groupby(["heads", "head_dim"], sort=False))
    figure, axes = plt.subplots(
        len(shapes), 2, figsize=(11, 3.6 * len(shapes)), squeeze=False, layout="constrained"
    )
    for row, ((heads, head_dim), of_shape) in zip(axes, shapes, strict=True):
        for axis, (direction, title) in zip(row, _DIRECTIONS.items(), strict=True):
            rows = of_shape[of_shape.direction == direction]
            if len(rows):
                draw(rows, axis)
            axis.set(title=f"{heads} heads of {head_dim}, {title}", **labels)
    return figure


def _training(table: pd.DataFrame) -> plt.Figure:
    figure, (speed, memory) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    labels = table.tokens.map("{:,}".format)
    speed.bar(labels, table.of_product_rate)
    speed.bar_label(speed.containers[0], [f"{ms / 1e3:.2f} s" for ms in table.ms])
    speed.margins(y=0.12)  # room for the labels
    speed.set(xlabel="tokens", ylabel="model FLOP/s / product rate", title="How fast is a step?")
    memory.bar(labels, table.arguments_gib, label="state and batch")
    memory.bar(labels, table.temporary_gib, bottom=table.arguments_gib, label="temporary")
    memory.set(xlabel="tokens", ylabel="GiB", title="How much memory does it take?")
    memory.legend()
    return figure


def _acting(table: pd.DataFrame) -> plt.Figure:
    figure, axis = plt.subplots(figsize=(6, 3.6), layout="constrained")
    axis.loglog(table.trajectories, table.ms, "o-", label="a step of acting")
    axis.loglog(table.trajectories, table.read_ms, "s--", label="reading the cache once")
    axis.set(xlabel="trajectories in the context", ylabel="ms", title="How fast does it act?")
    axis.set_xticks(table.trajectories, table.trajectories.map(str))
    axis.legend()
    return figure


def _quickstart(table: pd.DataFrame) -> plt.Figure:
    figure, (training, evaluation) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    table["whole_step_ms"] = 1e3 / table.training_steps_a_second
    columns = {
        "whole_step_ms": "in the loop",
        "step_alone_ms": "the step alone",
        "making_a_batch_ms": "making a batch",
    }
    table.set_index("agent")[list(columns)].rename(columns=columns).plot.bar(ax=training, rot=0)
    training.set(ylabel="ms", xlabel="", title="What does a training step wait for?")
    columns = {
        "evaluation_seconds": "with compilation",
        "evaluation_again_seconds": "once it is compiled",
    }
    seconds = table.set_index("agent").reindex(columns=list(columns)).rename(columns=columns)
    seconds.dropna(axis=1).plot.bar(ax=evaluation, rot=0)
    evaluation.set(xlabel="", ylabel="seconds", title="How long does an evaluation take?")
    return figure


_FIGURES = {
    "exactness": (_exactness, "output"),
    "attention": (_attention, "ms"),
    "ring": (_ring, "ms"),
    "training": (_training, "ms"),
    "acting": (_acting, "ms"),
    "quickstart": (_quickstart, "evaluation_seconds"),
}
"""The function that draws a part, and a column that measured rows have."""
