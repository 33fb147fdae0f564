"""Puts our returns beside the reinforcement-learning table of the Ring Attention paper."""

from __future__ import annotations

import pandas as pd

from experiments.reports.condition_looks import NAMES
from experiments.reports.return_table import at_longest, with_intervals

SOURCE = "arXiv 2310.01889, table 5"

CAVEAT = (
    "Ours are raw returns of the steps that were run. The paper says cumulative return, but its "
    "numbers cannot be raw returns of 1,000 steps (random play earns 122 to 177 on walker_stand). "
    "They are also the best of n attempts. So compare the order of agents, not the numbers."
)

# "blockwise" and "ring" are the paper's Agentic Transformer at 32 and at 128 trajectories.
_AGENTS = ("bc10", "dt", "blockwise", "ring")
_REPORTED = {
    "walker_stand": (52.91, 34.54, 95.45, 98.23),
    "walker_run": (34.81, 49.82, 105.88, 110.45),
    "walker_walk": (13.53, 34.94, 78.56, 78.95),
    "cheetah_run": (34.66, 67.53, 178.75, 181.34),
    "jaco_reach_top_left": (23.95, 18.64, 87.56, 89.51),
    "cartpole_swingup": (56.82, 67.56, 120.56, 123.45),
}
"""Reported returns by task, in the order of `_AGENTS`.

The paper's jaco_reach does not say which target: the first of ExoRL's stands for it.
"""


def beside_paper(summary: pd.DataFrame) -> pd.DataFrame:
    """Returns the results of both protocols beside what the paper reports.

    Rows are the tasks of the paper's table, each agent at its longest context.

    Args:
        summary: result of `agentic_transformer.evaluation.statistics.summarize`. The backbone of an
            agent is read from its name, which carries the settings in which agents of several runs
            differ (`at model.attention=ring`).

    Returns:
        Columns task, agent, condition, trajectories, seeds, episode_steps, last, last_low,
        last_high, best_of_n, best_low, best_high, reported (NaN where the paper has no such
        column); no rows where no task is the paper's. Returns are raw, of episode_steps
        environment steps.
    """
    ours = at_longest(summary[summary["task"].isin(_REPORTED)])
    names = {"mean": "last", "low": "last_low", "high": "last_high", "best_mean": "best_of_n"}
    table = ours.rename(columns=names).sort_values("task", kind="stable")
    reported = [
        _reported(*row) for row in table[["task", "agent", "condition"]].itertuples(index=False)
    ]
    columns = [
        *("task", "agent", "condition", "trajectories", "seeds", "episode_steps"),
        *names.values(),
        *("best_low", "best_high"),
    ]
    return table[columns].assign(reported=reported)


def _reported(task: str, agent: str, condition: str) -> float:
    """Returns what the paper reports of an agent, or NaN."""
    column = (
        next((name for name in ("blockwise", "ring") if f"model.attention={name}" in agent), None)
        if condition == "own"
        else condition
    )
    return dict(zip(_AGENTS, _REPORTED[task], strict=True)).get(column, float("nan"))


def paper_text(table: pd.DataFrame) -> str:
    """Formats the table of `beside_paper` for a terminal, with its caveat."""
    cells = pd.DataFrame(
        {
            "task": table["task"],
            "": table["agent"] + ": " + table["condition"].map(NAMES),
            "n": table["trajectories"],
            "steps": table["episode_steps"],
            "last attempt": with_intervals(table, ("last", "last_low", "last_high"), ".1f"),
            "best of n": with_intervals(table, ("best_of_n", "best_low", "best_high"), ".1f"),
            SOURCE: table["reported"],
        }
    )
    return f"{cells.to_string(index=False, na_rep='')}\n{CAVEAT}"
