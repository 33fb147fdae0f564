"""Compilations that are kept: the same step, compiled by the same versions and flags, is never
compiled twice.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from agentic_transformer.capacity import compiler
from agentic_transformer.capacity.compiler import Accepted, Memory, Refused
from agentic_transformer.capacity.hardware import GIB, topology
from agentic_transformer.capacity.schedule import Permute
from agentic_transformer.capacity.workload import Workload
from agentic_transformer.config import ModelConfig
from agentic_transformer.run_files import read_json, write_json
from experiments.cli import provenance
from experiments.cli.packages import ROOT

VERSIONS = ("jax", "jaxlib", "libtpu", "flax", "optax")
ENVIRONMENT = ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "JAX_ENABLE_X64", "JAX_DEFAULT_MATMUL_PRECISION")
"""Variables that change what is compiled, or how."""
SOURCES = (
    *("config.py", "contexts/tokens.py", "models/*.py", "ring/*.py"),
    *("training/loop.py", "training/sharding.py"),
    *("capacity/compiler.py", "capacity/schedule.py", "capacity/workload.py"),
)
"""What makes the train step, has it compiled and reads what the compiler says of it, under
agentic_transformer/."""


class Compilations:
    """The compiler, with a memory: a folder with a JSON file for each outcome."""

    def __init__(self, folder: Path) -> None:
        """Makes the folder."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._versions = {name: provenance.version(name) for name in VERSIONS} | {
            "sources": _digest()
        }
        self._versions |= {name: os.environ[name] for name in ENVIRONMENT if os.environ.get(name)}

    def __call__(self, workload: Workload, *, fast: bool) -> Accepted | Refused:
        """The outcome of `compiler.compile_step`, which takes from seconds to a minute, or what is
        kept of it; says which.

        Raises:
            ValueError: the compiler is not installed.
        """
        facts = {"step": _facts(workload), "fast": fast, "versions": self._versions}
        name = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
        path = self.folder / f"{name}.json"
        if kept := read_json(path):
            return _outcome(kept["outcome"])
        what = f"{workload.topology.name}, {workload.model.layers} layers of {workload.model.width}, {workload.tokens:,} tokens each"
        print(
            f"compiling {'for memory' if fast else 'the schedule'}: {what} ...", end=" ", flush=True
        )
        started = time.process_time()
        outcome = compiler.compile_step(workload, fast=fast)
        seconds = time.process_time() - started
        said = (
            f"refused at {outcome.required / GIB:.2f}"
            if isinstance(outcome, Refused)
            else f"{outcome.memory.peak / GIB:.2f}"
        )
        print(f"{said} GiB, {seconds:.0f} CPU seconds", flush=True)
        write_json(path, facts | {"seconds": round(seconds, 1), "outcome": _plain(outcome)})
        return outcome

    def accepted(self) -> Iterator[tuple[Workload, int]]:
        """Every workload that was compiled for memory by these versions and accepted, and its peak."""
        for path in sorted(self.folder.glob("*.json")):
            kept = read_json(path)
            if (
                kept
                and kept["fast"]
                and kept["versions"] == self._versions
                and "memory" in kept["outcome"]
            ):
                step = kept["step"]
                model = ModelConfig(**step["model"])
                yield (
                    Workload(**step | {"topology": topology(step["topology"]), "model": model}),
                    kept["outcome"]["memory"]["peak"],
                )


def _facts(workload: Workload) -> dict:
    """All that decides what is compiled."""
    return asdict(workload) | {"topology": workload.topology.name}


def _digest() -> str:
    found = hashlib.sha256()
    for pattern in SOURCES:
        for path in sorted((ROOT / "agentic_transformer").glob(pattern)):
            found.update(path.read_bytes())
    return found.hexdigest()[:16]


def _plain(outcome: Accepted | Refused) -> dict:
    if isinstance(outcome, Refused):
        return {"refused": outcome._asdict()}
    return {
        "memory": outcome.memory._asdict(),
        "permutes": [permute._asdict() for permute in outcome.permutes],
    }


def _outcome(plain: dict) -> Accepted | Refused:
    if "refused" in plain:
        return Refused(**plain["refused"])
    return Accepted(
        Memory(**plain["memory"]), tuple(Permute(**permute) for permute in plain["permutes"])
    )
