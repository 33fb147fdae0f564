"""Starts episodes as dm_control does."""

from __future__ import annotations

from functools import lru_cache
from threading import Lock

import numpy as np

from envs.domain import load_domain
from envs.headless import mujoco


class EpisodeStarter:
    """Starts episodes through the task's own `initialize_episode`.

    Attributes:
        substeps: physics steps of an environment step.
    """

    def __init__(self, domain: str, behaviour: str) -> None:
        """Builds dm_control's environment for `behaviour`; its model is the one to step."""
        self._name = domain, behaviour
        self._environment = load_domain(domain).build(behaviour)
        self._lock = Lock()  # the one environment serves all episodes
        steps = self._environment.control_timestep() / self._environment.physics.timestep()
        self.substeps = round(steps) * load_domain(domain).control_steps
        # Each model is one body, so the search for islands of contact always finds one island. It
        # takes up to a tenth of the time of a step.
        self.model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_ISLAND

    def __reduce__(self) -> tuple:
        """Makes pickle return the one starter of this behaviour in the process that loads it."""
        return episode_starter, self._name

    @property
    def model(self) -> mujoco.MjModel:
        """Returns the compiled model, for reading only."""
        return self._environment.physics.model.ptr

    def start(self, random: np.random.RandomState, into: mujoco.MjData) -> None:
        """Starts an episode and copies everything that MuJoCo holds of it to `into`.

        Args:
            random: the source of the start; it advances.
            into: an MjData of this model.
        """
        # A suite task holds its random state itself; a composer environment holds its task's.
        task = self._environment.task
        own = task.random if hasattr(task, "random") else self._environment.random_state
        with self._lock:
            own.set_state(random.get_state())
            self._environment.reset()
            random.set_state(own.get_state())
            # Not only the state: the first observation also shows what `reset` computed from it,
            # and the first step starts from its warm start.
            mujoco.mj_copyData(into, self.model, self._environment.physics.data.ptr)


@lru_cache
def episode_starter(domain: str, behaviour: str) -> EpisodeStarter:
    """Returns the one starter of a behaviour.

    dm_control's environments are slow to build and, full of reference cycles, slow to be freed.
    """
    return EpisodeStarter(domain, behaviour)
