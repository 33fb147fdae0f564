"""Finds the longest contexts that fit, beside table 3 of the Ring Attention paper (suite `plan`).

Contexts are compiled for TPU pods and GPUs that are not there. Compilations are cached in
`runs/plan/compiled`, so that the suite goes on where it was stopped. Rows of a platform whose
compiler is not installed are those of the earlier results; the column `commit` says which code made
a row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd

from agentic_transformer.capacity import compiler, estimate_settings, memory, roofline
from agentic_transformer.capacity.compile_cache import CompileCache
from agentic_transformer.capacity.hardware import GIB, topology
from agentic_transformer.capacity.hlo_permutes import DIRECTIONS, count_overlap
from agentic_transformer.capacity.plan import Plan, make_plan, workload_of
from agentic_transformer.config import ModelConfig, PlanCommand
from experiments.benchmarks import tables
from experiments.cli import provenance
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

AGENTS = {"tpu": "v5e:4x4", "gpu": "h100:8"}
TRAJECTORIES = (32, 128, 512)
GROWTH = {
    "350M": ("v5e:2x2", "v5e:2x4", "v5e:4x4", "v5e:4x8", "v5e:8x8"),
    "7B": ("v5p:2x2x1", "v5p:2x2x4", "v5p:4x4x4"),
}
SIDES = {"below": 2048, "above": 16384}
"""Tokens a device on either side of the overlap condition of `AGENTS`."""

Part = Callable[[CompileCache, str], Iterator[dict]]
"""Maps (cache, platform) to rows; a row has a topology of the platform."""


def run(folder: Path) -> None:
    """Runs every part and writes `<part>.csv` and the figures.

    Args:
        folder: for them, inside the folder of the earlier results.
    """
    # Nothing is computed: accelerators stay free, and their compilers need none.
    jax.config.update("jax_platforms", jax.config.jax_platforms or "cpu")
    cache = CompileCache(Path(PlanCommand().out) / "compiled")
    commit = (provenance.collect([], {})["commit"] or "unknown")[:7]  # None without git
    parts: dict[str, Part] = {
        "agent": _agent,
        "schedule": _schedule,
        "growth": _growth,
        "contexts": _contexts,
        "accuracy": _accuracy,
    }
    for name, part in parts.items():
        path, rows = folder / f"{name}.csv", []
        for platform, found in compiler.COMPILERS.items():
            if missing := found.missing():
                print(f"{name}: rows of {platform} stay as they are; {missing}", flush=True)
                rows += _kept(folder.parent / path.name, platform)
            else:
                rows += [row | {"commit": commit} for row in part(cache, platform)]
        tables.write(path, rows)
    tables.write(folder / "table_3.csv", list(_beside_reported(folder / "contexts.csv")))
    plot(folder)


def _kept(path: Path, platform: str) -> list[dict]:
    """Returns the rows of a platform that a CSV has."""
    if not path.exists():
        return []
    rows = pd.read_csv(path, dtype=object).to_dict("records")
    return [row for row in rows if topology(row["topology"]).platform == platform]


def llama(name: str, attention: str = "ring") -> ModelConfig:
    """Returns a model of LLaMA's shape with a backbone.

    As in the paper, the feedforward network is cut into chunks if the attention is, and nothing
    but the inputs of layers is kept for the backward pass.

    Args:
        name: one of `MODELS`.
        attention: one of `BACKBONES`.
    """
    width, layers, heads = MODELS[name]
    cut = attention in ("ring", "blockwise")
    shape = {"width": width, "layers": layers, "heads": heads, "remat": "full"}
    return replace(PlanCommand().model, **shape, attention=attention, blockwise_feedforward=cut)


def _plan(cache: CompileCache, **settings: Any) -> Plan:
    return make_plan(PlanCommand(**settings), cache)


def _agent(cache: CompileCache, platform: str) -> Iterator[dict]:
    """Plans the paper's agent with its numbers of trajectories of 4,000 tokens."""
    for trajectories in TRAJECTORIES:
        settings = {"topology": AGENTS[platform], "trajectories": trajectories}
        yield _plan(cache, **settings, compile="memory").row()


def _schedule(cache: CompileCache, platform: str) -> Iterator[dict]:
    """Reads what stands beside the ring's permutes, below and above the overlap condition."""
    for side, tokens in SIDES.items():
        workload = workload_of(PlanCommand(topology=AGENTS[platform])).with_tokens(tokens)
        outcome = cache(workload, fast=False)
        for direction in DIRECTIONS:
            step = roofline.ring_step(workload, backward=direction == "backward")
            yield {
                "side": side,
                "topology": AGENTS[platform],
                "tokens_a_device": tokens,
                "least_tokens": roofline.least_tokens(workload, backward=direction == "backward"),
                "direction": direction,
                **count_overlap(outcome.of_ring(direction))._asdict(),
                "branches": outcome.conditionals,
                "compute_ms": 1e3 * step.compute,
                "transfer_ms": 1e3 * step.transfer,
                "hidden": step.hidden,
            }


def _growth(cache: CompileCache, platform: str) -> Iterator[dict]:
    """Finds the longest contexts from 4 to 64 devices, of TPUs alone."""
    models = {"350M": replace(PlanCommand().model, remat="full"), "7B": llama("7B")}
    for name, topologies in GROWTH.items():
        for where in topologies:
            if topology(where).platform != platform:
                continue
            settings = {"topology": where, "model": models[name], "solve": "context"}
            yield {"model": name} | _plan(cache, **settings, compile="memory").row()


def _contexts(cache: CompileCache, platform: str) -> Iterator[dict]:
    """Finds the longest contexts of the paper's table; of GPUs, only the rows that it has."""
    for where, beside in BESIDE.items():
        if topology(where).platform != platform:
            continue
        for name in MODELS:
            reported = REPORTED.get((beside, name))
            if platform == "gpu" and not reported:
                continue
            for number, attention in enumerate(BACKBONES):
                settings = {
                    "topology": where,
                    "model": llama(name, attention),
                    "solve": "context",
                    "compile": "memory",
                }
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
    for (where, model), rows in pd.read_csv(contexts).groupby(["topology", "model"], sort=False):
        for whose, column, thousand in (
            (where, "context", 1000),
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


def _accuracy(cache: CompileCache, platform: str) -> Iterator[dict]:
    """Compares the estimate with the compiler's peak, for all workloads that have both."""
    for workload, peak in cache.accepted():
        if estimate_settings.assumed_settings(workload.model):
            continue
        if workload.topology.platform != platform:
            continue
        estimated = memory.estimate(workload).peak
        yield {
            "topology": workload.topology.name,
            "layers": workload.model.layers,
            "width": workload.model.width,
            "heads": workload.model.heads,
            "attention": workload.model.attention,
            "remat": workload.model.remat,
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
    topologies = [where for where in BESIDE if where in set(contexts.topology)]
    figure, axes = plt.subplots(
        1,
        len(topologies),
        figsize=(5 * len(topologies), 3.8),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for axis, where in zip(axes[0], topologies, strict=True):
        rows = contexts[contexts.topology == where]
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
            title=f"{where} (line: paper, {BESIDE[where]})",
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
