"""Translates names in checkpoints of the previous version to current names.

Names that have changed since are read for one version, with one warning line for each checkpoint.
"""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from typing import Any

from agentic_transformer.earlier_settings import RENAMED

_SPEC_KEYS = {"scaling": "normalizer"} | {
    f"{group}.{old}": f"{group}.{new}"
    for group, names in RENAMED.items()
    for old, new in names.items()
}
"""New key of the spec by its old one; a dot separates the keys of nested values."""
_MODULES = {
    "project": "qkv_proj",
    "merge": "out_proj",
    "expand": "up_proj",
    "contract": "down_proj",
}
"""New name of a module by its old one, wherever it stands in the name of an array."""


def current_array(name: str) -> str:
    """Returns the current name of an array, such as `blocks.0.qkv_proj.kernel.value`."""
    return ".".join(_MODULES.get(part, part) for part in name.split("."))


def current_spec(spec: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns an agent's spec with the current keys, or the part of it below `prefix`."""
    renamed = {}
    for key, value in spec.items():
        new = _SPEC_KEYS.get(prefix + key, prefix + key).removeprefix(prefix)
        renamed[new] = current_spec(value, f"{prefix}{key}.") if isinstance(value, dict) else value
    return renamed


@cache
def warn(checkpoint: Path) -> None:
    """Prints once for each checkpoint that an older version wrote it."""
    said = (
        "written by an older version; its names are read as the current ones, for one version more"
    )
    print(f"warning: {checkpoint}: {said}", file=sys.stderr, flush=True)
