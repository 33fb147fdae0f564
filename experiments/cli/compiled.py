"""Programs that jax has compiled, kept for the next run of the same."""

from __future__ import annotations

import os
from pathlib import Path

FOLDER = "JAX_COMPILATION_CACHE_DIR"
"""Jax's own setting; empty, nothing is kept."""


def keep() -> None:
    """Has jax keep what took it over a second to compile in the user's cache folder, unless the
    environment names another.

    To be called before jax is imported. A program is found again under the same jax, flags and kind
    of machine, which its key holds. It is never kept in the folder of a run: that of a stranger
    could bring machine code with it.
    """
    if FOLDER in os.environ:
        return
    try:
        folder = (
            Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
            / "agentic_transformer"
            / "compiled"
        )
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # there is no home, or it cannot be written to
        return
    os.environ[FOLDER] = str(folder)
