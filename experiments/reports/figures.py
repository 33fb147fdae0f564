"""Collects the figures of a run, one function each; importing them loads matplotlib."""

from experiments.reports.attempts_figure import attempts
from experiments.reports.context_figures import entropy, retrieval, return_vs_window
from experiments.reports.return_figures import agents, return_vs_context, return_vs_tokens
from experiments.reports.training_figure import training_curves

__all__ = [
    "agents",
    "attempts",
    "entropy",
    "retrieval",
    "return_vs_context",
    "return_vs_tokens",
    "return_vs_window",
    "training_curves",
]
