"""Collects the figures of a run, one function each; importing them loads matplotlib."""

from experiments.reports.attempts_figure import attempts
from experiments.reports.context_figures import entropy, retrieval, return_vs_window
from experiments.reports.learning_curve_figure import learning_curves
from experiments.reports.return_figures import agents, return_vs_context, return_vs_tokens
from experiments.reports.training_figure import training_curves
from experiments.reports.variants_figure import variants, variants_by_tokens

__all__ = [
    "agents",
    "attempts",
    "entropy",
    "learning_curves",
    "retrieval",
    "return_vs_context",
    "return_vs_tokens",
    "return_vs_window",
    "training_curves",
    "variants",
    "variants_by_tokens",
]
