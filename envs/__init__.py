"""Defines tasks and simulates them: the tasks of ExoRL and URLB, and families of hidden tasks.

Importing this package loads neither MuJoCo nor dm_control nor gymnasium; nor do `tasks`, `task`,
`spec` or drawing tasks.

    envs.make("walker_flip", seed=0)              one gymnasium environment
    envs.make_vec("walker_flip", num_envs=64)     64 of them on one batch of physics
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from envs.family_table import Parameter
from envs.gymnasium_registration import register, register_when_gymnasium_is_imported
from envs.own_families import register_family
from envs.registry import (
    Spec,
    Task,
    families,
    members,
    spec,
    task,
    tasks,
)
from envs.task_draws import collection_tasks, draw_tasks, held_out_tasks, training_tasks
from envs.top_down_view import top_down_view

if TYPE_CHECKING:
    from envs.environment import make, make_vec
    from envs.rendering import render, write_video

__all__ = [
    "Parameter",
    "Spec",
    "Task",
    "collection_tasks",
    "draw_tasks",
    "families",
    "held_out_tasks",
    "make",
    "make_vec",
    "members",
    "register",
    "register_family",
    "render",
    "spec",
    "task",
    "tasks",
    "top_down_view",
    "training_tasks",
    "write_video",
]

_LAZY = {
    "make": "envs.environment",
    "make_vec": "envs.environment",
    "render": "envs.rendering",
    "write_video": "envs.rendering",
}


def __getattr__(name: str) -> object:
    """Loads what needs MuJoCo or gymnasium at its first use (PEP 562)."""
    if name not in _LAZY:
        raise AttributeError(f"module 'envs' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    """Returns the public names, for completion in a notebook."""
    return sorted(__all__)


register_when_gymnasium_is_imported()
