"""Finds the longest contexts that fit, beside table 3 of the Ring Attention paper (suite `plan`).

Contexts are compiled for TPU pods that are not there. Compilations are cached in
`runs/plan/compiled`, so that the suite goes on where it was stopped.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from agentic_transformer.capacity import estimate_settings, memory, roofline
from agentic_transformer.capacity.compile_cache import CompileCache
from agentic_transformer.capacity.hardware import GIB
from agentic_transformer.capacity.plan import Plan, make_plan, workload_of
from agentic_transformer.config import ModelConfig, PlanCommand
from experiments.benchmarks import tables
from experiments.reports.pyplot import plt

MODELS = {"3B": (3200, 26, 32), "7B": (4096, 32, 32), "13B": (5120, 40, 40), "30B": (6656, 60, 52)}
"""LLaMA's width, layers and heads, as conf/model/llama_*.yaml."""

BACKBONES = {
    "dense": "vanilla",
    "memory_efficient": "memory efficient",
    "blockwise": "blockwise",
    "ring": "ring",
}
"""Our backbones, and the paper's names for them."""

REPORTED = {
    ("TPUv5e-256", "3B"): (4, 8, 32, 4096),
    ("TPUv5e-256", "7B"): (2, 8, 16, 2048),
    ("TPUv4-1024", "3B"): (8, 16, 32, 16384),
    ("TPUv4-1024", "7B"): (4, 8, 16, 8192),
    ("TPUv4-1024", "13B"): (4, 8, 16, 4096),
    ("TPUv4-1024", "30B"): (2, 4, 8, 2048),
    ("8x A100 NVLink", "3B"): (4, 32, 64, 512),
    ("8x A100 NVLink", "7B"): (2, 16, 32, 256),
    ("8x A100 NVLink", "13B"): (2, 4, 16, 128),
    ("32x A100 InfiniBand", "7B"): (4, 64, 128, 4096),
    ("32x A100 InfiniBand", "13B"): (4, 32, 64, 2048),
}
"""Longest contexts of `BACKBONES` in thousands of tokens (arXiv 2310.01889, table 3).

GPUs compute in float32. TPUv4-1024 counts cores: it has 512 chips.
"""

BESIDE = {
    "v5e:16x16": "TPUv5e-256",
    "v5p:8x8x8": "TPUv4-1024",
    "a100:8": "8x A100 NVLink",
    "a100_infiniband:32": "32x A100 InfiniBand",
}
"""The machine of the paper's table that stands beside each topology.

The paper's v4 has 32 GB a chip, v5p has three times that.
"""

AGENT = "v5e:4x4"
TRAJECTORIES = (32, 128, 512)
GROWTH = {
    "350M": ("v5e:2x2", "v5e:2x4", "v5e:4x4", "v5e:4x8", "v5e:8x8"),
    "7B": ("v5p:2x2x1", "v5p:2x2x4", "v5p:4x4x4"),
}
SIDES = {"below": 2048, "above": 16384}
"""Tokens a device on either side of the overlap condition of `AGENT`."""


def run(folder: Path) -> None:
    """Runs every part and writes `<part>.csv` and the figures into `folder`."""
    cache = CompileCache(Path(PlanCommand().out) / "compiled")
    parts = {"agent": _agent, "schedule": _schedule, "growth": _growth, "contexts": _contexts}
    for name, part in parts.items():
        tables.write(folder / f"{name}.csv", list(part(cache)))
    tables.write(folder / "table_3.csv", list(_beside_reported(folder / "contexts.csv")))
    tables.write(folder / "accuracy.csv", list(_accuracy(cache)))
    plot(folder)


def llama(name: str, attention: str = "ring") -> ModelConfig:
    """Returns a model of LLaMA's shape with a backbone.

    As in the paper, the feedforward network is cut into chunks if the attention is.

    Args:
        name: one of `MODELS`.
        attention: one of `BACKBONES`.
    """
    width, layers, heads = MODELS[name]
    cut = attention in ("ring", "blockwise")
    shape = {"width": width, "layers": layers, "heads": heads}
    return replace(PlanCommand().model, **shape, attention=attention, blockwise_feedforward=cut)


def _plan(cache: CompileCache, **settings: Any) -> Plan:
    return make_plan(PlanCommand(**settings), cache)


def _agent(cache: CompileCache) -> Iterator[dict]:
    """Plans the paper's agent with its numbers of trajectories of 4,000 tokens."""
    for trajectories in TRAJECTORIES:
        plan = _plan(cache, topology=AGENT, trajectories=trajectories, compile="memory")
        yield plan.row()


def _schedule(cache: CompileCache) -> Iterator[dict]:
    """Reads what stands beside the ring's permutes, below and above the overlap condition."""
    for side, tokens in SIDES.items():
        workload = workload_of(PlanCommand(topology=AGENT)).with_tokens(tokens)
        permutes = cache(workload, fast=False).permutes
        for direction in ("forward", "forward again", "backward"):
            ring = [
                permute
                for permute in permutes
                if permute.of_ring and permute.direction == direction
            ]
            step = roofline.ring_step(workload, backward=direction == "backward")
            yield {
                "side": side,
                "topology": AGENT,
                "tokens_a_device": tokens,
                "least_tokens": roofline.least_tokens(workload, backward=direction == "backward"),
                "direction": direction,
                "permutes": len(ring),
                "beside_computation": sum(permute.beside_computation for permute in ring),
                "beside_products": sum(permute.beside_products for permute in ring),
                "compute_ms": 1e3 * step.compute,
                "transfer_ms": 1e3 * step.transfer,
                "hidden": step.hidden,
            }


def _growth(cache: CompileCache) -> Iterator[dict]:
    """Finds the longest contexts from 4 to 64 devices."""
    models = {"350M": PlanCommand().model, "7B": llama("7B")}
    for name, topologies in GROWTH.items():
        for topology in topologies:
            plan = _plan(
                cache,
                topology=topology,
                model=models[name],
                solve="context",
                compile="memory",
            )
            yield {"model": name} | plan.row()


def _contexts(cache: CompileCache) -> Iterator[dict]:
    """Finds the longest contexts of the paper's table: compiled for TPUs, estimated for GPUs."""
    for topology, beside in BESIDE.items():
        for name in MODELS:
            for number, attention in enumerate(BACKBONES):
                settings = {
                    "topology": topology,
                    "model": llama(name, attention),
                    "solve": "context",
                    "compile": "memory",
                }
                reported = REPORTED.get((beside, name))
                yield {
                    "model": name,
                    **_plan(cache, **settings).row(),
                    "paper": beside,
                    "paper_thousands": reported[number] if reported else None,
                }


def _beside_reported(contexts: Path) -> Iterator[dict]:
    """Returns the paper's table 3 in its own form: thousands of tokens, ours and reported.

    The column `gain` is the context of the ring over that of blockwise.
    """
    for (topology, model), rows in pd.read_csv(contexts).groupby(["topology", "model"], sort=False):
        for whose, column, thousand in (
            (topology, "context", 1000),
            (rows.paper.iloc[0], "paper_thousands", 1),
        ):
            found = rows.set_index("attention")[column].reindex(list(BACKBONES)) / thousand
            if found.notna().any():
                names = {name: found[attention] for attention, name in BACKBONES.items()}
                yield {
                    "model": model,
                    "on": whose,
                    **names,
                    "gain": found["ring"] / found["blockwise"],
                }


def _accuracy(cache: CompileCache) -> Iterator[dict]:
    """Compares the estimate with the compiler's peak, for all workloads that have both."""
    for workload, peak in cache.accepted():
        if estimate_settings.assumed_settings(workload.model):
            continue
        estimated = memory.estimate(workload).peak
        yield {
            "topology": workload.topology.name,
            "layers": workload.model.layers,
            "width": workload.model.width,
            "heads": workload.model.heads,
            "attention": workload.model.attention,
            "ring": workload.ring,
            "tokens_a_device": workload.tokens,
            "estimated": estimated / GIB,
            "compiled": peak / GIB,
            "ratio": estimated / peak,
        }


def plot(folder: Path) -> None:
    """Draws `contexts.png` and `growth.png` from the CSVs alone."""
    _plot_contexts(pd.read_csv(folder / "contexts.csv"), folder / "contexts.png")
    _plot_growth(pd.read_csv(folder / "growth.csv"), folder / "growth.png")


def _plot_contexts(contexts: pd.DataFrame, path: Path) -> None:
    """Draws bars of the longest contexts, with the paper's as lines."""
    topologies = [
        topology for topology in ("v5e:16x16", "v5p:8x8x8") if topology in set(contexts.topology)
    ]
    figure, axes = plt.subplots(
        1, len(topologies), figsize=(10, 3.8), sharey=True, squeeze=False, layout="constrained"
    )
    for axis, topology in zip(axes[0], topologies, strict=True):
        rows = contexts[contexts.topology == topology]
        models = list(dict.fromkeys(rows.model))
        for number, (attention, name) in enumerate(BACKBONES.items()):
            ours = rows[rows.attention == attention].set_index("model").reindex(models)
            at = np.arange(len(models)) + 0.2 * (number - 1.5)
            axis.bar(at, ours.context, width=0.18, label=name)
            axis.plot(at, 1e3 * ours.paper_thousands, "k_", markersize=12)
        axis.set(
            yscale="log",
            xticks=range(len(models)),
            xticklabels=models,
            title=f"{topology} (line: paper, {BESIDE[topology]})",
        )
    axes[0][0].set(ylabel="longest context, tokens")
    axes[0][0].legend(fontsize="small")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _plot_growth(growth: pd.DataFrame, path: Path) -> None:
    """Draws the longest context by devices, and where the memory of a 7B model goes."""
    figure, (contexts, memories) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    for name, rows in growth.groupby("model"):
        family = rows.topology.iloc[0].partition(":")[0]
        contexts.loglog(rows.devices, rows.context, "o-", label=f"{name}, {family}")
        proportional = rows.context.iloc[0] * rows.devices / rows.devices.iloc[0]
        contexts.loglog(rows.devices, proportional, ":", color="gray")
    counts = sorted(growth.devices.unique())
    contexts.set(
        xlabel="devices", ylabel="longest context, tokens", title="dotted: in proportion to devices"
    )
    contexts.set_xticks(counts, counts, minor=False)
    contexts.minorticks_off()
    contexts.legend()
    rows = growth[growth.model == "7B"]
    bottom = np.zeros(len(rows))
    for kind in memory.Estimate._fields:
        sizes = rows[f"estimated_{kind}"].to_numpy()
        memories.bar(rows.topology, sizes, bottom=bottom, label=kind)
        bottom += sizes
    memories.plot(rows.topology, rows.compiled_peak, "kx", label="compiler's peak")
    memories.set(ylabel="GiB a device", title="7B at its longest context")
    memories.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=120)
    plt.close(figure)
