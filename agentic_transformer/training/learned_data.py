"""Records how many episodes a run learned from, and says whether they are others now."""

from __future__ import annotations

from pathlib import Path

import datasets
from agentic_transformer.run_files import PROVENANCE, read_json


def count_episodes(store: datasets.ActionRepeatView) -> dict[str, int]:
    """Returns facts for a run's provenance: how many episodes are read, and of how many."""
    return {"episodes": store.episodes, "episodes_there": store.cached}


def describe_change(run: Path, store: datasets.ActionRepeatView) -> str | None:
    """Says that a run learned from other episodes than those that would be read now.

    Args:
        run: the run's folder. Runs of earlier versions do not tell how many episodes were there.
        store: the trajectories now.

    Returns:
        One clause with the numbers; None if they agree, or the provenance does not state them.
    """
    learned, now = read_json(run / PROVENANCE), count_episodes(store)
    if all(learned.get(key, count) == count for key, count in now.items()):
        return None
    of = f" of {learned['episodes_there']}" if "episodes_there" in learned else ""
    return (
        f"the run learned from {learned.get('episodes')}{of} episodes, now {store.episodes} of "
        f"{store.cached} would be read"
    )
