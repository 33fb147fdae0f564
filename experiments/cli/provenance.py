"""Collects and records what a run was made with: commit, versions, command, seeds, machine."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from agentic_transformer.run_files import PROVENANCE, read_json, write_json
from agentic_transformer.settings import shell_join
from experiments.cli.packages import ROOT

PACKAGES = (
    "agentic-transformer", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "scipy",
    "pandas", "mujoco", "dm_control", "gymnasium", "h5py", "hydra-core", "omegaconf",
    "ringattention", "torch", "libtpu",
    "jax-cuda12-plugin", "nvidia-cudnn-cu12", "jax-cuda13-plugin", "nvidia-cudnn-cu13",
)  # fmt: skip


def now() -> str:
    """Returns the time in ISO format with its zone."""
    return datetime.now(UTC).astimezone().isoformat(timespec="seconds")


def collect(command: list[str], seeds: dict[str, int]) -> dict[str, Any]:
    """Returns the facts that are known before any work starts; imports no jax.

    Args:
        command: the command line.
        seeds: every seed by its setting's key.
    """
    changed = _git("status", "--porcelain")
    return {
        "started": now(),
        "command": shell_join(command),
        "commit": _git("rev-parse", "HEAD"),  # None, as is the next, for an installed copy
        "dirty": None if changed is None else bool(changed),
        "seeds": seeds,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "packages": {name: version(name) for name in PACKAGES},
    }


def _processor() -> str:
    """Returns the model of the CPU, as Linux names it; elsewhere what Python knows of it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def changes() -> str | None:
    """Returns a SHA-256 of changes since the commit and names of new files; None without git."""
    parts = _git("status", "--porcelain"), _git("diff", "HEAD")
    return None if None in parts else hashlib.sha256("\0".join(parts).encode()).hexdigest()


def add_provenance(folder: Path, **facts: Any) -> None:
    """Adds facts to a run's provenance, if it has any."""
    if known := read_json(folder / PROVENANCE):
        write_json(folder / PROVENANCE, known | facts)


def devices() -> dict[str, Any]:
    """Returns the accelerators of this process and the precision that its user has set for them.

    The dict is empty if the process has not used jax.
    """
    if (jax := sys.modules.get("jax")) is None:
        return {}
    try:
        found = {
            "devices": jax.device_count(),
            "backend": jax.default_backend(),
            "device_kind": jax.devices()[0].device_kind,
            "default_matmul_precision": jax.config.jax_default_matmul_precision,  # None: not set
            "processes": jax.process_count(),
        }
    except RuntimeError:  # what kept jax from starting has been reported already
        return {}
    return found | ({"driver": _driver()} if found["backend"] == "gpu" else {})


def _driver() -> str | None:
    """Returns the version of NVIDIA's driver; None if nvidia-smi does not say."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.split()[0] if done.stdout.strip() else None


def version(name: str) -> str | None:
    """Returns the version of an installed package; None if it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    """Returns what git says of this code; None without git or outside of our repository."""
    return _run_git(*arguments) if _is_tracked() else None


@cache
def _is_tracked() -> bool:
    """Returns whether the repository around this code holds it; a user's own may be around it."""
    return _run_git("ls-files", "--error-unmatch", __file__) is not None


def _run_git(*arguments: str) -> str | None:
    command = ["git", "-C", str(ROOT), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
