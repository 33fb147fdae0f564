"""What a run was made with: commit, versions, command, seeds, machine."""

from __future__ import annotations

import hashlib
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from typing import Any

from agentic_transformer.run_files import read_json as read  # noqa: F401 (used by others)
from agentic_transformer.run_files import write_json as write  # noqa: F401
from experiments.cli.packages import ROOT

PACKAGES = (
    "agentic-transformer", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "scipy", "pandas",
    "mujoco", "dm_control", "gymnasium", "h5py", "hydra-core", "omegaconf", "ringattention", "torch", "libtpu",
)  # fmt: skip


def now() -> str:
    """The time, in ISO format with its zone."""
    return datetime.now(UTC).astimezone().isoformat(timespec="seconds")


def collect(command: list[str], seeds: dict[str, int]) -> dict[str, Any]:
    """The facts known before any work starts; jax is not imported.

    Args:
        command: the words of the command line.
        seeds: every seed by its setting's key.
    """
    return {
        "started": now(),
        "command": shlex.join(command),
        "commit": _git("rev-parse", "HEAD"),  # None, as is the next, of an installed copy
        "dirty": None if (status := _git("status", "--porcelain")) is None else bool(status),
        "seeds": seeds,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: version(name) for name in PACKAGES},
    }


def changes() -> str | None:
    """SHA-256 of what the files of the commit have become since, and of the names of new ones; None
    without git.
    """
    parts = _git("status", "--porcelain"), _git("diff", "HEAD")
    return None if None in parts else hashlib.sha256("\0".join(parts).encode()).hexdigest()


def devices() -> dict[str, Any]:
    """The accelerators of this process, or nothing if it never needed any."""
    jax = sys.modules.get("jax")
    if jax is None:
        return {}
    try:
        return {
            "devices": jax.device_count(),
            "device_kind": jax.devices()[0].device_kind,
            "processes": jax.process_count(),
        }
    except RuntimeError:  # what kept jax from starting has been reported already
        return {}


def _git(*arguments: str) -> str | None:
    """What git says of this code; None without git, or if another project's repository is around
    it.
    """
    return _run_git(*arguments) if _is_tracked() else None


@cache
def _is_tracked() -> bool:
    """Whether the repository around this code holds it: around an installed copy there may be a
    user's own.
    """
    return _run_git("ls-files", "--error-unmatch", __file__) is not None


def _run_git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *arguments],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def version(name: str) -> str | None:
    """Of an installed package; None if it is not."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
