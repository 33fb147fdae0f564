"""Measures what a long context costs in training and in acting (suite `agent`).

Costs are CPU time. The data are synthetic, of a task's shape, if their values do not matter. The
suite takes about 10 minutes, most of them in ten training steps on 128 trajectories of 1,000 steps.
A part whose table is in the folder is finished: after a kill, a run goes on after it.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pandas as pd

from experiments.benchmarks import tables
from experiments.cli.devices import use_virtual_devices
from experiments.reports.pyplot import plt

_PARTS = {
    "acting": "agent_acting",
    "evaluation": "agent_acting",
    "training": "agent_training",
    "waiting": "agent_training",
    "memory": "agent_context",
    "steps": "agent_context",
}
"""Module of `experiments.benchmarks` with each part's function, which has the name of the part."""


def run(folder: Path) -> None:
    """Runs every part that `folder` lacks, and writes `<part>.csv` and a figure there."""
    use_virtual_devices(8, "--xla_cpu_collective_call_terminate_timeout_seconds=3600")
    for name, module in _PARTS.items():
        path = folder / f"{name}.csv"
        if not path.exists():
            # Imported here, after XLA_FLAGS is set: jax reads the number of devices as it starts.
            part = getattr(import_module(f"experiments.benchmarks.{module}"), name)
            tables.write(path, part())
    plot(folder)


def plot(folder: Path) -> None:
    """Draws `agent.png` from the CSVs alone.

    Its panels show the cost of acting, where a training step's time goes, and a device's memory.
    """
    figure, (cost, share, memory) = plt.subplots(1, 3, figsize=(15, 4), layout="constrained")
    acting = pd.read_csv(folder / "acting.csv")
    for column, label in (
        ("recompute_ms", "recomputing the context"),
        ("act_ms", "acting"),
        ("read_ms", "reading the cache"),
    ):
        cost.loglog(acting["tokens"], acting[column], "o-", label=label)
    cost.set(title="One step of 64 agents", xlabel="tokens in the context", ylabel="CPU ms")
    cost.legend()
    training = pd.read_csv(folder / "training.csv")
    labels = [
        f"{case}\n{used:.2f} of the products' rate"
        for case, used in zip(training.case, training.utilisation, strict=True)
    ]
    start = 0.0
    for kind in list(training.columns)[4:]:
        share.barh(labels, training[kind], left=start, label=kind)
        start = start + training[kind]
    share.set(title="A training step", xlabel="share of its time", xlim=(0, 1))
    share.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=2)
    used = pd.read_csv(folder / "memory.csv")
    devices = used.devices.map({1: "1 device"}).fillna(used.devices.astype(str) + " devices")
    names = used.backbone + ", " + devices + "\n" + used.context.map("{:,} tokens".format)
    memory.barh(names, used["megabytes_a_device"])
    memory.bar_label(memory.containers[0], fmt=" %.0f MB")
    memory.margins(x=0.25)
    memory.set(title="A training step on 128 trajectories", xlabel="temporary MB a device")
    figure.savefig(folder / "agent.png", dpi=110)
    plt.close(figure)
