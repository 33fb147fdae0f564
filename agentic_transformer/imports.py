"""Imports what a user's own module holds, by its name `<module>:<NAME>`.

Python looks for the module where it looks for any other: in the folder that a command is
started in, and in the environment.
"""

from __future__ import annotations

import pkgutil
import re
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from agentic_transformer.errors import listing, nearest, raise_config_error

FORM = "<module>:<NAME>"
"""How such a name is written, in messages."""


def is_import_name(name: str) -> bool:
    """Returns whether a name has the form `<module>:<NAME>`."""
    return re.fullmatch(r"\w+(\.\w+)*:\w+", name) is not None


def check_module(name: str, where: str) -> None:
    """Raises a UserError if there is no such module. Does not import it, which may be slow.

    Args:
        name: `<module>:<NAME>`.
        where: what names it, such as `agent.learner=my_module:MINE`.
    """
    if name.partition(":")[0] not in sys.modules:  # `__main__` of a notebook cannot be looked for
        _look_up(name, where, find_spec)


def import_object(name: str, kind: type, where: str) -> Any:
    """Imports a module and returns what it holds.

    Args:
        name: `<module>:<NAME>`.
        kind: what it must be an instance of.
        where: what names it, such as `agent.learner=my_module:MINE`.

    Raises:
        UserError: there is no such module, it lacks a module that it imports, or it holds no such
            thing.
    """
    if not is_import_name(name):
        raise_config_error(f"{where}: {name!r} is not of the form {FORM}")
    module = _look_up(name, where, import_module)
    attribute = name.partition(":")[2]
    found = getattr(module, attribute, None)
    if isinstance(found, kind):
        return found
    names = [key for key, value in vars(module).items() if isinstance(value, kind)]
    what = "class" if kind is type else kind.__name__
    problem = f"is no {what}" if hasattr(module, attribute) else "is not there"
    return raise_config_error(
        f"{where}: {attribute} of module {module.__name__} {problem}",
        listing(names) or f"a {what}, and the module has none",
        nearest(attribute, names),
    )


def _look_up(name: str, where: str, look: Callable[[str], Any]) -> Any:
    """Returns what `find_spec` or `import_module` finds of the module in a name."""
    module, _, attribute = name.partition(":")
    try:
        found = look(module)
    except ModuleNotFoundError as error:
        if not f"{module}.".startswith(f"{error.name}."):
            raise_config_error(f"{where}: module {module} cannot be imported: {error}")
        found = None
    if found is None:
        here = [one.name for one in pkgutil.iter_modules([str(Path.cwd())])]
        close = nearest(module, here)
        raise_config_error(
            f"{where}: there is no module {module}",
            "a module in the folder that you start in, or of an installed package",
            close and f"{close}:{attribute}",
        )
    return found
