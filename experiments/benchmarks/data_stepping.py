"""Measures stepping 64 states at once, against one dm_control environment and bare `mj_step`.

The time of a step depends on which bodies touch, so only equal episodes compare. All three ways
follow the same few starts and action sequences: dm_control and `mj_step` one after another, the
vector environment many copies of them at once. `mj_step` steps the model of the vector environment.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

import envs
from envs.domain import load_domain
from envs.episode_start import episode_starter
from envs.headless import mujoco

STATES = 64
_PATHS = 4
_BLOCK = 50
"""Steps that one way takes before the next takes its turn; divides every episode's length."""
_SECONDS = 20
"""CPU time in which the same episodes are repeated; the quickest run of each block counts."""
_ROUNDS = 3  # at least


class Rates(NamedTuple):
    """Holds the states stepped in a second of CPU time, for each way of stepping.

    `difference` is the largest between the positions and velocities that two ways come to.
    """

    dm_control: float
    make_vec: float
    mj_step: float
    difference: float


def measure(task: str) -> Rates:
    """Measures whole episodes of uniformly random actions.

    Args:
        task: name of the task.
    """
    domain, length = envs.task(task).domain, envs.spec(task).length
    environments = [load_domain(domain).build(envs.task(task).behaviour) for _ in range(_PATHS)]
    vector = envs.make_vec(task, STATES)
    shape = (length, _PATHS, *vector.single_action_space.shape)
    actions = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32).astype(np.float64)
    low, high = environments[0].physics.model.actuator_ctrlrange.T
    controls = low + (actions + 1) * (high - low) / 2
    every = np.tile(actions, (1, STATES // _PATHS, 1))
    # Not dm_control's model: ours leaves out the search for islands of contact, which takes time.
    model = episode_starter(domain, envs.task(task).behaviour).model
    substeps = round(environments[0].control_timestep() / environments[0].physics.timestep())
    seconds = np.full((3, length // _BLOCK), np.inf)
    start, rounds = time.process_time(), 0
    while rounds < _ROUNDS or time.process_time() - start < _SECONDS:
        datas = [_started(environment, seed) for seed, environment in enumerate(environments)]
        vector.reset(seed=[index % _PATHS for index in range(STATES)])

        def alone(steps: slice) -> None:
            for path, environment in enumerate(environments):
                for control in controls[steps, path]:
                    environment.step(control)

        def together(steps: slice) -> None:
            for action in every[steps]:
                together.physics = vector.step(action)[4]["physics"]

        def bare(steps: slice, datas: list[mujoco.MjData] = datas) -> None:
            for path, data in enumerate(datas):
                for control in controls[steps, path]:
                    data.ctrl[:] = control
                    mujoco.mj_step(model, data, substeps)

        for block in range(length // _BLOCK):
            steps = slice(block * _BLOCK, (block + 1) * _BLOCK)
            spent = [_timed(way, steps) for way in (alone, together, bare)]
            seconds[:, block] = np.minimum(seconds[:, block], spent)
        rounds += 1
        reached = np.array([environment.physics.get_state() for environment in environments])
    work = np.array([_PATHS, STATES, _PATHS]) * length
    return Rates(*(work / seconds.sum(axis=1)), np.abs(together.physics[:_PATHS] - reached).max())


def _started(environment: object, seed: int) -> mujoco.MjData:
    """Starts dm_control's episode of a seed and returns a copy of its first state."""
    task = environment.task
    (task.random if hasattr(task, "random") else environment.random_state).seed(seed)
    environment.reset()
    data = mujoco.MjData(environment.physics.model.ptr)
    mujoco.mj_copyData(data, environment.physics.model.ptr, environment.physics.data.ptr)
    return data


def _timed(way: Callable[[slice], None], steps: slice) -> float:
    """Returns the seconds of CPU time that a way takes, of all threads."""
    start = time.process_time()
    way(steps)
    return time.process_time() - start
