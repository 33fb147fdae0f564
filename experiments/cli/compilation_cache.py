"""Keeps the programs that jax has compiled, for the next run of the same."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

VARIABLE = "JAX_COMPILATION_CACHE_DIR"
"""Jax's own setting; if it is empty, nothing is kept."""


def enable() -> None:
    """Lets jax keep programs in the user's cache folder, unless the environment names another one.

    Call it before jax is imported. A run's folder never holds them: a stranger's run could bring
    machine code with it.
    """
    with suppress(OSError, RuntimeError):  # there is no home, or it cannot be written to
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = cache / "agentic_transformer" / "compiled"
        if VARIABLE not in os.environ:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.environ[VARIABLE] = str(folder)
