"""How far search could go: an ideal searcher that plays the data's own trajectories.

It knows the rewards of every trajectory under every task that the true one may be, keeps a
posterior over these tasks, and pays for its attempts as the agent does. What it earns is a ceiling
for agents that imitate the data. `posterior_sampling` draws a task from the posterior and plays its
best trajectory; `bayes_greedy` plays the trajectory of the greatest expected return.
"""

from __future__ import annotations

import numpy as np

from agentic_transformer.contexts.search_posterior import log_likelihood

ORACLES = ("bayes_greedy", "posterior_sampling")


def search(
    known: np.ndarray, true: np.ndarray, attempts: int, rule: str, rng: np.random.Generator
) -> np.ndarray:
    """The trajectories of successive attempts at unknown tasks.

    Args:
        known: (hypotheses, episodes) return of each trajectory of the data under each task that may
            be, all as likely at first.
        true: (units, episodes) the same under the tasks to be solved.
        attempts: how many.
        rule: one of `ORACLES`.
        rng: of the draws of `posterior_sampling`.

    Returns:
        (units, attempts) indices of trajectories.
    """
    units = np.arange(len(true))
    log_posterior = np.zeros((len(true), len(known)))
    best_of = known.argmax(axis=1)
    chosen = []
    for _ in range(attempts):
        if rule == "bayes_greedy":
            posterior = np.exp(log_posterior - log_posterior.max(axis=1, keepdims=True))
            episode = (posterior @ known).argmax(axis=1)
        else:
            episode = best_of[(log_posterior + rng.gumbel(size=log_posterior.shape)).argmax(axis=1)]
        observed = true[units, episode]
        log_posterior += log_likelihood(known[:, episode].T, observed[:, None], known.max())
        chosen.append(episode)
    return np.stack(chosen, axis=1)
