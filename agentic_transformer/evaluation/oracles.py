"""Computes oracles for search: ideal searchers that play the data's own trajectories.

An oracle knows the return of every trajectory of the data under every task that may be the true
one. It keeps a posterior over these tasks, and its attempts count as the agent's do. It learns only
from the return of a whole trajectory, so an agent that reads rewards within an attempt may earn
more, above all in its first attempts.
"""

from __future__ import annotations

import numpy as np

from agentic_transformer.contexts.search_posterior import log_likelihood, return_size

ORACLES = ("bayes_greedy", "posterior_sampling")
"""`bayes_greedy` plays the trajectory of the greatest expected return. `posterior_sampling` draws a
task from the posterior and plays the best trajectory for it."""


def search(
    known: np.ndarray, true: np.ndarray, attempts: int, rule: str, rng: np.random.Generator
) -> np.ndarray:
    """Returns the trajectories of successive attempts at unknown tasks.

    Args:
        known: (hypotheses, episodes) return of each trajectory of the data under each task that the
            true one may be; all are equally likely before the first attempt.
        true: (units, episodes) the same under the tasks to be solved.
        attempts: number of attempts.
        rule: one of `ORACLES`.
        rng: generator for the draws of `posterior_sampling`.

    Returns:
        (units, attempts) indices of trajectories.
    """
    units = np.arange(len(true))
    log_posterior = np.zeros((len(true), len(known)))  # (units, hypotheses), up to a constant
    best_of = known.argmax(axis=1)  # (hypotheses,)
    size, chosen = return_size(known), []
    for _ in range(attempts):
        if rule == "bayes_greedy":
            # E[return | posterior] of every trajectory: (units, episodes)
            posterior = np.exp(log_posterior - log_posterior.max(axis=1, keepdims=True))
            episode = (posterior @ known).argmax(axis=1)
        else:
            # The largest of log p_i + Gumbel noise is a draw from p.
            episode = best_of[(log_posterior + rng.gumbel(size=log_posterior.shape)).argmax(axis=1)]
        observed = true[units, episode]
        # Bayes' rule: log p(task | returns) += log p(return | task)
        log_posterior += log_likelihood(known[:, episode].T, observed[:, None], size)
        chosen.append(episode)
    return np.stack(chosen, axis=1)
