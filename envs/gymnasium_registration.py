"""Registers our tasks with gymnasium, whichever of the two packages is imported first.

Gymnasium loads no plugins, and `import envs` must not load gymnasium. So where gymnasium is not
there yet, a finder on `sys.meta_path` waits for its import and then registers the tasks.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

from envs import registry


def register() -> None:
    """Registers every task as `gymnasium.make("exorl/<task>-v0")`.

    As with gymnasium's own environments, starts are random until a seed is given, so that several
    environments made alike differ.
    """
    import gymnasium  # which `import envs` must not load

    for name in registry.tasks():
        identifier = f"exorl/{name}-v0"
        if identifier not in gymnasium.registry:
            gymnasium.register(
                identifier,
                entry_point="envs.environment:Environment",
                kwargs={"task": name, "seed": None},
            )


def register_when_gymnasium_is_imported() -> None:
    """Registers the tasks now if gymnasium is imported, otherwise as soon as it is."""
    if "gymnasium" in sys.modules:
        register()
    else:
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Finds gymnasium as the other finders do, and has the tasks registered once it has loaded."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        """Returns where gymnasium is; None for other modules, which the next finder then finds."""
        if fullname != "gymnasium":
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        found = (finder.find_spec(fullname, path, target) for finder in others)
        spec = next(filter(None, found), None)
        if spec is not None and spec.loader is not None:
            exec_module = spec.loader.exec_module

            def exec_and_register(module: ModuleType) -> None:
                exec_module(module)
                register()

            spec.loader.exec_module = exec_and_register
        return spec
