"""Reads settings that an earlier version wrote, under their earlier names or without newer ones.

The command line uses it before jax is imported, so this module imports nothing slow.
"""

from __future__ import annotations

import sys
from collections.abc import MutableMapping
from dataclasses import asdict
from functools import cache
from typing import Any

from agentic_transformer.config import (
    AgentConfig,
    CQLConfig,
    CRRConfig,
    DataConfig,
    IQLConfig,
    ModelConfig,
    TD3BCConfig,
    TrainConfig,
)

_AGENT = {
    "condition": "return_conditioning",
    "good": "selection_threshold",
    "length": "chain_length",
}
# Earlier names of settings by their group; they are read for one version.
RENAMED = {
    "agent": _AGENT,
    "baseline": _AGENT,
    "model": {"rolled": "scan_layers", "compute": "dtype"},
    "train": {"accumulate": "grad_accum_steps", "clip": "grad_clip_norm"},
}
_GROUPS = {
    "data": DataConfig,
    "agent": AgentConfig,
    "model": ModelConfig,
    "train": TrainConfig,
    "td3_bc": TD3BCConfig,
    "iql": IQLConfig,
    "cql": CQLConfig,
    "crr": CRRConfig,
}
"""Groups of settings that make an agent."""
_OF_LEARNERS = ("td3_bc", "iql", "cql", "crr")
"""Groups that only some learners use."""


def rename_settings(values: MutableMapping[str, Any], source: str | None = None) -> None:
    """Renames settings that were written under an earlier name, in place.

    Args:
        values: groups of settings by name, such as `{"model": {"rolled": True}}`.
        source: where they were read, for the warning line; None prints none.
    """
    for group, names in RENAMED.items():
        found = values.get(group)
        if not isinstance(found, MutableMapping):  # a damaged file; the checks of types say so
            continue
        for old in [old for old in names if old in found]:
            value, new = found.pop(old), names[old]
            found.setdefault(new, value)
            if source:
                warn_renamed(f"{group}.{old}", f"{group}.{new}", source)


@cache  # one line for each name and source
def warn_renamed(old: str, new: str, source: str) -> None:
    """Prints that a setting has a new name."""
    print(f"warning: {source}: {old} is now called {new}", file=sys.stderr)


def with_defaults(values: dict[str, Any]) -> dict[str, Any]:
    """Returns settings of an earlier version, with those that did not exist then.

    A newer setting gets its default, which is the behaviour from before the setting. An agent's
    settings also get the groups of learners that they lack.

    Args:
        values: settings by group, such as `{"model": {"width": 64}}`; other groups that are missing
            stay so.
    """
    newer = {name: {} for name in _OF_LEARNERS if "agent" in values}
    return values | {
        name: asdict(group()) | found
        for name, group in _GROUPS.items()
        if isinstance(found := (newer | values).get(name), dict)
    }
