"""Keeps packages from loading a drawing library while they are imported."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_drawing_library() -> Iterator[None]:
    """Sets MUJOCO_GL=disabled within the block, for MuJoCo and dm_control that it imports."""
    backend = os.environ.get("MUJOCO_GL")
    os.environ["MUJOCO_GL"] = "disabled"
    try:
        yield
    finally:
        if backend is None:
            del os.environ["MUJOCO_GL"]
        else:
            os.environ["MUJOCO_GL"] = backend
