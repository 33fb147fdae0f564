"""Checks that new settings may continue a run.

The command line and `agentic_transformer.train` refuse the same changes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agentic_transformer.earlier_settings import rename_settings
from agentic_transformer.errors import raise_config_error
from agentic_transformer.run_files import (
    CONFIG,
    LAST_KEY,
    LEARNING_CURVE,
    read_settings,
    written_settings,
)
from agentic_transformer.settings import flat, format_value, lies_in

# Settings that may change when a run is resumed: none of them touches what is learned. Data in
# another place are compared with those that the run learned from, see `training.train`.
MAY_CHANGE = (
    "run", "resume", "data.root", "data.cache", "eval", "mesh", "train.log_every",
    "train.checkpoint_every", "train.keep", "train.keep_best", "train.profile",
    "train.eval_every", "train.eval_tasks", "logger",
)  # fmt: skip
# Those of them that decide what learning_curve.csv measures.
MEASURED = (
    *("eval.seed", "eval.held_out", "eval.target", "eval.temperature", "eval.noise", "eval.window"),
    "train.eval_tasks",
)


def check_goes_on(run: Path, settings: Any) -> None:
    """Checks that settings may continue the run in a folder, if there is one.

    Args:
        run: the run's folder.
        settings: an instance of the command's dataclass.

    Raises:
        UserError: see `check_same`; or the settings there cannot be read.
    """
    if not (run / CONFIG).exists():
        return
    there = read_settings(run, LAST_KEY)
    rename_settings(there, str(run / CONFIG))
    # Settings newer than the run get their defaults: the behaviour from before the setting.
    newer = written_settings(type(settings)())
    check_same(run, flat(newer) | flat(there), flat(written_settings(settings)))


def check_same(run: Path, there: dict[str, Any], here: dict[str, Any]) -> None:
    """Checks that a run, continued with new settings, would go on learning the same.

    Args:
        run: the run's folder.
        there: its settings by dotted key, as they stand in its `config.yaml`.
        here: all settings that would continue it, by dotted key.

    Raises:
        UserError: they make it learn something else, or its learning curve would mix evaluations.
    """
    for key in here | there:
        before, now = there.get(key), here.get(key)  # what is missing counts as null
        if before == now:
            continue
        old, new = format_value(before), format_value(now)
        more = key == "train.steps" and isinstance(before, int) and before < now
        if not (more and may_grow(here)) and not lies_in(key, *MAY_CHANGE):
            raise_config_error(
                f"run={run} cannot be continued: {key} is {old} there and {new} here",
                "the settings it was started with; train.steps may grow",
            )
        if lies_in(key, *MEASURED) and _curve_goes_on(run, here):
            raise_config_error(
                f"run={run}: {LEARNING_CURVE} would mix {key}={old} there and {new} here",
                f"{key}={old}, or train.eval_every=0; experiments.evaluate takes any",
            )


def may_grow(settings: dict[str, Any]) -> bool:
    """Returns whether a run may be given more steps: it trains one agent.

    Args:
        settings: of the run, by dotted key.
    """
    return "train.steps" in settings and "baseline.name" not in settings


def _curve_goes_on(run: Path, settings: dict[str, Any]) -> bool:
    """Returns whether a resumed run adds to a learning curve that has begun."""
    curve = run / LEARNING_CURVE
    begun = curve.is_file() and curve.stat().st_size > 0
    return begun and settings.get("train.eval_every", 0) > 0
