"""Says how people see conditions: their names in figures, tables and reports, and their curves.

Docs use the same names. Files of data (records.csv, summary.csv, ...) and settings use the short
values of `agentic_transformer.config.RECORD_CONDITIONS`, which are the keys here.
"""

from __future__ import annotations

from typing import NamedTuple

from agentic_transformer.learners import learner_conditions


class Look(NamedTuple):
    """Holds how a condition, or an agent, is shown."""

    name: str
    colour: str
    marker: str
    """Empty: points are not marked."""
    line: str


LOOKS = {
    condition: Look(*look)
    for condition, look in {
        "own": ("own trajectories in context", "#0b5fa5", "o", "-"),
        "dataset": ("dataset trajectories in context", "#6a9f2a", "^", "-"),
        "no_context": ("empty context", "#d1495b", "s", "--"),
        "foreign": ("another task's context", "#e09f3e", "v", "--"),
        "zero_rewards": ("own trajectories, rewards 0", "#9c6644", "x", "--"),
        "other_rewards": ("own trajectories, another task's rewards", "#5f0f40", "+", "--"),
        "shuffled": ("own trajectories, order shuffled", "#4ea8de", "<", "--"),
        "retrieval": ("one good dataset trajectory among poor ones", "#31572c", "H", "--"),
        "distractors": ("poor dataset trajectories in context", "#a5a58d", ">", "--"),
        "dt": ("Decision Transformer", "#777777", "D", ":"),
        "bc": ("behaviour cloning", "#8d6a9f", "P", ":"),
        "bc10": ("behaviour cloning of the best tenth", "#5b3a75", "X", ":"),
        "single": ("model of single trajectories", "#7f5539", "p", ":"),
        "bc_told": ("behaviour cloning of the best tenth, told the task", "#5b3a75", "X", "--"),
        "single_told": ("model of single trajectories, told the task", "#7f5539", "p", "--"),
        **learner_conditions(),
        "bayes_greedy": ("oracle: Bayes-greedy search over the data", "#222222", "", "-."),
        "posterior_sampling": ("oracle: posterior sampling over the data", "#222222", "", ":"),
    }.items()
}
"""The look of each condition."""

NAMES = {condition: look.name for condition, look in LOOKS.items()}
"""The name of each condition."""
