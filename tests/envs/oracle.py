"""Steps dm_control's own environments one at a time, as the reference for the batched physics.

Rewards of tasks that dm_control lacks are written here as dm_control tasks would write them, on
named data of one state.
"""

from __future__ import annotations

import numpy as np
from dm_control import suite
from dm_control.utils.rewards import tolerance

import envs
from envs.domain import load_domain

INF = float("inf")
STOCK = (
    *(
        "cartpole_balance",
        "cartpole_balance_sparse",
        "cartpole_swingup",
        "cartpole_swingup_sparse",
        "cheetah_run",
    ),
    *(
        "walker_stand",
        "walker_walk",
        "walker_run",
        "quadruped_walk",
        "quadruped_run",
        "hopper_stand",
        "hopper_hop",
    ),
)


def _walker_flip(physics):
    standing = tolerance(physics.torso_height(), (1.2, INF), 0.6)
    stand = (3 * standing + (1 + physics.torso_upright()) / 2) / 4
    return stand * (5 * tolerance(momentum(physics), (5, INF), 5, "linear", 0) + 1) / 6


def momentum(physics):
    return physics.named.data.subtree_angmom["torso"][1]


def _standing(physics):
    return tolerance(physics.height(), (0.6, 2))


def _upright(physics):
    return float(tolerance(physics.torso_upright(), (1, INF), 2, "linear", 0))


def _roll(physics, target):
    return _upright(physics) * tolerance(
        np.linalg.norm(physics.torso_velocity()), (target, INF), target, "linear", 0.5
    )


CUSTOM = {
    "walker_flip": _walker_flip,
    "cheetah_run_backward": lambda p: tolerance(-p.speed(), (10, INF), 10, "linear", 0),
    "cheetah_flip": lambda p: tolerance(momentum(p), (5, INF), 5, "linear", 0),
    "cheetah_flip_backward": lambda p: tolerance(-momentum(p), (5, INF), 5, "linear", 0),
    "hopper_hop_backward": lambda p: (
        _standing(p) * tolerance(-p.speed(), (2, INF), 1, "linear", 0.5)
    ),
    "hopper_flip": lambda p: _standing(p) * tolerance(momentum(p), (5, INF), 5, "linear", 0),
    "hopper_flip_backward": lambda p: (
        _standing(p) * tolerance(-momentum(p), (5, INF), 5, "linear", 0)
    ),
    "quadruped_stand": _upright,
    "quadruped_jump": lambda p: (
        _upright(p)
        * tolerance(p.named.data.sensordata["center_of_mass"][2], (1, INF), 1, "linear", 0.5)
    ),
    "quadruped_roll": lambda p: _roll(p, 0.5),
    "quadruped_roll_fast": lambda p: _roll(p, 5.0),
}


def _corner(name, offset):
    return (-offset if name.endswith("left") else offset), (offset if "_top_" in name else -offset)


def _jaco(name, physics):
    pinch = physics.named.data.site_xpos["jaco_arm/jaco_hand/pinchsite"]
    return tolerance(
        np.linalg.norm(pinch - np.array([*_corner(name, 0.09), 0.001])), (0, 0.05), 0.05
    )


def _maze(name, physics):
    mass = physics.named.data.geom_xpos["pointmass"]
    near = tolerance(
        np.linalg.norm(mass - np.array([*_corner(name, 0.15), 0.01])), (0, 0.015), 0.015
    )
    return (
        near
        * (
            tolerance(physics.control(), margin=1, value_at_margin=0, sigmoid="quadratic").mean()
            + 4
        )
        / 5
    )


def _at_speed(value, speed):
    return tolerance(value, (speed - 0.25, speed + 0.25), 0.5, "linear", 0)


def _walker_speed(physics, speed):
    standing = tolerance(physics.torso_height(), (1.2, INF), 0.6)
    stand = (3 * standing + (1 + physics.torso_upright()) / 2) / 4
    return stand * _at_speed(physics.horizontal_velocity(), speed)


def _reach(position, goal, radius):
    return tolerance(np.linalg.norm(position - goal), (0, radius), radius)


def _maze_goal(physics, goal):
    small = tolerance(physics.control(), margin=1, value_at_margin=0, sigmoid="quadratic")
    mass = physics.named.data.geom_xpos["pointmass"][:2]
    return _reach(mass, goal, 0.015) * (small.mean() + 4) / 5


def _jaco_goal(physics, goal):
    pinch = physics.named.data.site_xpos["jaco_arm/jaco_hand/pinchsite"]
    return _reach(pinch, (*goal, 0.001), 0.05)


FAMILIES = {
    "cheetah_speed": lambda p, speed: _at_speed(p.speed(), speed),
    "walker_speed": _walker_speed,
    "quadruped_speed": lambda p, speed: _upright(p) * _at_speed(p.torso_velocity()[0], speed),
    "point_mass_goal": lambda p, goal: _reach(p.named.data.geom_xpos["pointmass"][:2], goal, 0.045),
    "point_mass_maze_goal": _maze_goal,
    "jaco_goal": _jaco_goal,
}


class Oracle:
    """Holds one dm_control environment of a task."""

    def __init__(self, name, seed):
        self.task = envs.task(name)
        self.name = name = self.task.name
        domain = self.task.domain
        behaviour = name.removeprefix(domain + "_")
        if name in STOCK:
            self.environment = suite.load(domain, behaviour, task_kwargs={"random": seed})
        else:
            self.environment = load_domain(domain).build(behaviour)
            random = (
                self.environment.random_state if domain == "jaco" else self.environment.task.random
            )
            random.seed(seed)
        spec = self.environment.action_spec()
        self.limits = spec.minimum, spec.maximum

    @property
    def physics(self):
        return self.environment.physics

    def reset(self):
        return self._flat(self.environment.reset().observation)

    def step(self, action):
        low, high = self.limits
        control = action if np.all(high == 1) else low + (action + 1) * (high - low) / 2
        step = self.environment.step(control)
        return self._flat(
            step.observation
        ), self.reward() if self.name not in STOCK else step.reward

    def reward(self):
        """Returns the reward of the present state."""
        if self.name in STOCK:
            return self.environment.task.get_reward(self.physics)
        if self.name in FAMILIES:
            return FAMILIES[self.name](self.physics, **self.task.params)
        if self.name in CUSTOM:
            return CUSTOM[self.name](self.physics)
        return (_jaco if self.name.startswith("jaco") else _maze)(self.name, self.physics)

    def set_state(self, state, control=0.0):
        """Relabels as the reference does.

        Sets the state, runs a full forward pass, and returns the reward with `control` applied.
        """
        with self.physics.reset_context():
            self.physics.set_state(state)
        self.physics.data.ctrl[:] = control
        return self.reward()

    def _flat(self, observation):
        return np.concatenate(
            [np.ravel(value) for key, value in observation.items() if key != "target_position"]
        )
