"""Names conditions in what people read: figures, printed tables, reports; docs use the same names.

Files of data (records.csv, summary.csv, ...) and settings use the short values of
`agentic_transformer.config.RECORD_CONDITIONS`, which are the keys here.
"""

from __future__ import annotations

from agentic_transformer.learners import learner_conditions

NAMES = {
    "own": "own trajectories in context",
    "dataset": "dataset trajectories in context",
    "no_context": "empty context",
    "foreign": "another task's context",
    "zero_rewards": "own trajectories, rewards 0",
    "other_rewards": "own trajectories, another task's rewards",
    "shuffled": "own trajectories, order shuffled",
    "retrieval": "one good dataset trajectory among poor ones",
    "distractors": "poor dataset trajectories in context",
    "dt": "Decision Transformer",
    "bc": "behaviour cloning",
    "bc10": "behaviour cloning of the best tenth",
    "single": "model of single trajectories",
    "bc_told": "behaviour cloning of the best tenth, told the task",
    "single_told": "model of single trajectories, told the task",
    **{condition: name for condition, (name, _) in learner_conditions().items()},
    "bayes_greedy": "oracle: Bayes-greedy search over the data",
    "posterior_sampling": "oracle: posterior sampling over the data",
}
"""The name of each condition."""
