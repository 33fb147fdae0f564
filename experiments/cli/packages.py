"""Which code is this project's."""

from __future__ import annotations

import importlib.util
import traceback
from pathlib import Path

from experiments.cli.settings import SettingError, reject

ROOT = Path(__file__).resolve().parents[2]
# An installed copy has the configs inside a package; the repository has them beside the packages.
CONF = next(place for place in (ROOT / "experiments" / "conf", ROOT / "conf") if place.is_dir())
PACKAGES = ("envs", "datasets", "agentic_transformer", "experiments")


def check_packages() -> None:
    """Raise a SettingError if another project's package hides one of ours, as Hugging Face's
    `datasets` would.
    """
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        places = [spec.origin, *(spec.submodule_search_locations or ())] if spec else []
        origin = next((Path(place).resolve() for place in places if place), None)
        if origin is None or ROOT / package not in (origin, origin.parent):
            reject(
                f"package {package!r} here is {origin or 'missing'}, not this project's: start from another folder"
            )


def is_our_word(error: Exception) -> bool:
    """Whether an error is about bad input: a ValueError or FileNotFoundError that the project
    itself raises, no library.
    """
    if isinstance(error, SettingError):
        return True
    if not isinstance(error, ValueError | FileNotFoundError):
        return False
    raised = traceback.extract_tb(error.__traceback__)[-1]
    inside = any(
        (ROOT / package) in Path(raised.filename).resolve().parents for package in PACKAGES
    )
    return inside and (raised.line or "").startswith("raise ")
