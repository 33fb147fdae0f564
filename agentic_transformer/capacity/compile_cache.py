"""Keeps compilations: the same step is compiled once by the same versions, flags and code."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

from agentic_transformer.capacity import compiler
from agentic_transformer.capacity.hardware import GIB, topology
from agentic_transformer.capacity.hlo_permutes import Permute
from agentic_transformer.capacity.outcome import Accepted, Memory, Refused
from agentic_transformer.capacity.workload import Workload
from agentic_transformer.config import ModelConfig
from agentic_transformer.run_files import read_json, write_json

VERSIONS = (
    *("jax", "jaxlib", "flax", "optax", "libtpu", "jax-cuda12-plugin", "jax-cuda13-plugin"),
    *("nvidia-cudnn-cu12", "nvidia-cudnn-cu13"),
)
ENVIRONMENT = ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "JAX_ENABLE_X64", "JAX_DEFAULT_MATMUL_PRECISION")
"""Environment variables that change what is compiled, or how."""

SOURCES = (
    *("config.py", "earlier_settings.py", "errors.py", "imports.py", "learners.py"),
    *("random_streams.py", "run_files.py", "settings.py"),
    *("contexts/*.py", "models/*.py", "ring/**/*.py", "training/*.py"),
    *("capacity/compiler.py", "capacity/compilers/*.py", "capacity/workload.py"),
    *("capacity/hardware.py", "capacity/devices/*", "capacity/outcome.py"),
    "capacity/hlo_permutes.py",
)
"""Files under agentic_transformer/ that make the train step, compile it, and read the result."""

PACKAGE = Path(__file__).parents[1]


class CompileCache:
    """Runs the compiler and keeps each outcome in a JSON file of a folder."""

    def __init__(self, folder: Path) -> None:
        """Makes the folder.

        Args:
            folder: holds a JSON file for each outcome.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._versions = {name: _version(name) for name in VERSIONS} | {"sources": _digest()}
        self._versions |= {name: os.environ[name] for name in ENVIRONMENT if os.environ.get(name)}

    def __call__(self, workload: Workload, *, fast: bool) -> Accepted | Refused:
        """Returns the outcome of `compiler.compile_step`, compiled now or before.

        A compilation takes from seconds to a minute; it prints one line.

        Args:
            workload: what to compile.
            fast: see `compiler.compile_step`.

        Raises:
            ValueError: the compiler is not installed.
        """
        fast = fast and workload.topology.platform == "tpu"  # GPUs' compiler has one effort
        facts = {"step": _facts(workload), "fast": fast, "versions": self._versions}
        name = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
        path = self.folder / f"{name}.json"
        if kept := read_json(path):
            return _from_json(kept["outcome"])
        purpose = "for memory" if fast else "as it runs"
        model = f"{workload.model.layers} layers of {workload.model.width}"
        what = f"{workload.topology.name}, {model}, {workload.tokens:,} tokens each"
        print(f"compiling {purpose}: {what} ...", end=" ", flush=True)
        started = time.process_time()
        outcome = compiler.compile_step(workload, fast=fast)
        seconds = time.process_time() - started
        said = (
            f"refused at {outcome.required / GIB:.2f}"
            if isinstance(outcome, Refused)
            else f"{outcome.memory.peak / GIB:.2f}"
        )
        print(f"{said} GiB, {seconds:.0f} CPU seconds", flush=True)
        write_json(path, facts | {"seconds": round(seconds, 1), "outcome": _to_json(outcome)})
        return outcome

    def accepted(self) -> Iterator[tuple[Workload, int]]:
        """Yields accepted workloads, compiled for memory by these versions, with their peaks."""
        for path in sorted(self.folder.glob("*.json")):
            kept = read_json(path)
            if kept and kept["versions"] == self._versions and "memory" in kept["outcome"]:
                step, where = kept["step"], topology(kept["step"]["topology"])
                if kept["fast"] != (where.platform == "tpu"):
                    continue
                model = ModelConfig(**step["model"])
                yield (
                    Workload(**step | {"topology": where, "model": model}),
                    kept["outcome"]["memory"]["peak"],
                )


def _facts(workload: Workload) -> dict:
    """Returns everything about a workload that decides what is compiled."""
    return asdict(workload) | {"topology": workload.topology.name}


def _version(package: str) -> str | None:
    """Returns the version of a package; None if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _digest() -> str:
    """Returns a digest of `SOURCES`."""
    digest = hashlib.sha256()
    for pattern in SOURCES:
        for path in sorted(PACKAGE.glob(pattern)):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _to_json(outcome: Accepted | Refused) -> dict:
    if isinstance(outcome, Refused):
        return {"refused": outcome._asdict()}
    return outcome._asdict() | {
        "memory": outcome.memory._asdict(),
        "permutes": [permute._asdict() for permute in outcome.permutes],
    }


def _from_json(kept: dict) -> Accepted | Refused:
    if "refused" in kept:
        return Refused(**kept["refused"])
    permutes = tuple(Permute(**permute) for permute in kept["permutes"])
    return Accepted(**kept | {"memory": Memory(**kept["memory"]), "permutes": permutes})
