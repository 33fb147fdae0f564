"""Tells where this project's packages and configs are, and that no others hide them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from agentic_transformer.errors import raise_config_error
from agentic_transformer.name_clash import describe_clash

ROOT = Path(__file__).resolve().parents[2]
# An installed copy has the configs inside a package; the repository has them beside the packages.
CONF = next(place for place in (ROOT / "experiments" / "conf", ROOT / "conf") if place.is_dir())
PACKAGES = ("envs", "datasets", "agentic_transformer", "experiments")
_OTHERS = tuple(name for name in PACKAGES if name != "datasets")  # `name_clash` has that one


def check_packages() -> None:
    """Raises a UserError if a package hides one of ours, as Hugging Face's `datasets` would."""
    for package in _OTHERS:
        spec = importlib.util.find_spec(package)
        places = [spec.origin, *(spec.submodule_search_locations or ())] if spec else []
        origin = next((Path(place).resolve() for place in places if place), None)
        if origin is None or ROOT / package not in (origin, origin.parent):
            raise_config_error(
                f"package {package!r} here is {origin or 'missing'}, not this project's: "
                "start from another folder"
            )
    if clash := describe_clash():
        raise_config_error(clash)
