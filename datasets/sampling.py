"""Which trajectories a batch holds: a function of seed and position alone, so any position can be resumed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from envs.registry import unknown

METHODS = ("uniform", "stratified", "top")


@dataclass(frozen=True)
class Selection:
    """How trajectories are chosen.

    Attributes:
        method: `uniform`; `stratified` (every stratum of the ranked returns is drawn from equally often); or `top` (uniform among
            the best `fraction`, as in BC-10%).
        strata: number of equal slices of the ranking.
        fraction: share of the trajectories that `top` keeps.
    """

    method: str = "uniform"
    strata: int = 10
    fraction: float = 0.1

    def __post_init__(self) -> None:
        """Refuse unknown methods and empty selections."""
        if self.method not in METHODS:
            raise unknown("selection method", self.method, METHODS)
        if self.strata < 1 or not 0 < self.fraction <= 1:
            raise ValueError(f"selection: strata={self.strata} must be at least 1, fraction={self.fraction} above 0, at most 1")


class Sampler:
    """Draws indices of trajectories for ever. Batch b is a function of the seed and b alone.

    Attributes:
        position: batches drawn so far; set it to resume.
    """

    def __init__(
        self, returns: np.ndarray, batch: int, seed: int, selection: Selection | None = None, *, host: int = 0, hosts: int = 1
    ) -> None:
        """Sample from trajectories 0..E-1.

        Args:
            returns: (E,), of the task that is trained for.
            batch: indices a call.
            seed: of the sequence.
            selection: how; uniform by default.
            host: this process, of
            hosts: processes. Host h draws batches h, h + hosts, ... of one common sequence.

        Raises:
            ValueError: nothing to draw from, or strata that outnumber the trajectories.
        """
        self._selection = selection or Selection()
        self._ranking = np.argsort(returns, kind="stable")
        if len(returns) < (self._selection.strata if self._selection.method == "stratified" else 1):
            raise ValueError(f"sampler: {len(returns)} trajectories are too few for {self._selection}")
        self._batch, self._seed, self._host, self._hosts = batch, seed, host, hosts
        self.position = 0

    def next(self) -> np.ndarray:
        """The next batch of indices, (batch,)."""
        rng = np.random.default_rng([self._seed, self.position * self._hosts + self._host])
        self.position += 1
        count = len(self._ranking)
        if self._selection.method == "top":
            kept = math.ceil(count * self._selection.fraction)
            return self._ranking[count - kept + rng.integers(kept, size=self._batch)]
        if self._selection.method == "stratified":
            strata = self._selection.strata
            stratum = rng.permutation(np.arange(self._batch) + rng.integers(strata)) % strata
            place = (stratum + rng.random(self._batch)) / strata
            return self._ranking[(place * count).astype(int)]
        return rng.integers(count, size=self._batch)
