"""Finds the folder of a run, or of a committed agent by its name."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from agentic_transformer.errors import listing, nearest, raise_config_error
from agentic_transformer.run_files import CONFIG

RESULTS = Path(__file__).parents[1] / "experiments" / "results"
"""Folder of the committed evidence: the agent of a result is in `<result>/run`."""

_SIMILAR = 0.6
"""Smallest similarity, from 0 to 1, at which a folder is suggested."""


def committed_agents() -> dict[str, Path]:
    """Returns the folders of the committed agents, by name."""
    return {path.parents[1].name: path.parent for path in RESULTS.glob("*/run/checkpoints")}


def find_run(run: Path | str) -> Path:
    """Returns the folder of a run.

    Args:
        run: the folder, or the name of a committed agent.

    Raises:
        UserError: there is neither.
    """
    agents = committed_agents()
    if Path(run).is_dir():
        return Path(run)
    if str(run) in agents:
        return agents[str(run)]
    allowed = (
        f"the folder of a run, or one of {listing(agents) or '(no agents are committed here)'}"
    )
    return raise_config_error(
        f"load: {str(run)!r} is no folder and no agent", allowed, nearest(str(run), agents)
    )


def nearest_run(missing: Path | str) -> str | None:
    """Returns the run folder that is most like a missing one; None if none is like it.

    A run inside of the missing folder comes first.

    Args:
        missing: the folder as it was typed. Runs are looked for one and two levels below its parent
            and below `runs`.
    """
    missing = Path(missing)
    patterns = (f"*/{CONFIG}", f"*/*/{CONFIG}")
    places = dict.fromkeys([missing.parent, Path("runs")])
    found = {
        path.parent for place in places for pattern in patterns for path in place.glob(pattern)
    }

    def similarity(run: Path) -> float:
        # The part that both paths share is left out of the comparison.
        shared = os.path.commonpath([run.parent.absolute(), missing.parent.absolute()])
        pair = (os.path.relpath(path, shared) for path in (run, missing))
        return difflib.SequenceMatcher(None, *pair).ratio()

    if within := sorted(run for run in found if missing in run.parents):
        return str(within[0])
    best = max(sorted(found - {missing}), key=similarity, default=None)
    return str(best) if best and similarity(best) >= _SIMILAR else None
