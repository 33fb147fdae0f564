"""Records which episodes a run learned from, and says whether they are others now."""

from __future__ import annotations

from pathlib import Path

import datasets
from agentic_transformer.run_files import PROVENANCE, read_json


def describe_episodes(store: datasets.ActionRepeatView) -> dict[str, int | str]:
    """Returns facts for a run's provenance: how many episodes are read, of how many, of which."""
    return {
        "episodes": store.episodes,
        "episodes_there": store.cached,
        "episodes_digest": store.digest,
    }


def describe_change(run: Path, store: datasets.ActionRepeatView) -> str | None:
    """Says that a run learned from other episodes than those that would be read now.

    Args:
        run: the run's folder. Runs of earlier versions do not tell how many episodes were there, or
            which.
        store: the trajectories now.

    Returns:
        One clause with the numbers; None if the provenance states no other ones.
    """
    learned, now = read_json(run / PROVENANCE), describe_episodes(store)
    differing = [key for key, value in now.items() if learned.get(key, value) != value]
    if not differing:
        return None
    if differing == ["episodes_digest"]:
        return f"the run learned from other episodes than the {store.episodes} that are there now"
    of = f" of {learned['episodes_there']}" if "episodes_there" in learned else ""
    return (
        f"the run learned from {learned.get('episodes')}{of} episodes, now {store.episodes} of "
        f"{store.cached} would be read"
    )
