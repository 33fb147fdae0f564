"""Small data, models and runs that several tests share."""

import numpy as np
from flax import nnx

import datasets
import envs
from agentic_transformer.config import AgentConfig, ModelConfig
from agentic_transformer.description import AgentDescription
from agentic_transformer.labels import LabelledTrajectories
from agentic_transformer.policy import Policy

TASK = "point_mass_goal"


def labelled(folder, episodes=40, tasks=3):
    """Trajectories of noisy controllers under a few goals."""
    buffer = datasets.buffer_folder(folder, TASK, "pd")
    datasets.collect(TASK, buffer, episodes=episodes, seed=0, collector="pd", progress=False)
    goals = envs.training_tasks(TASK, tasks, np.random.default_rng(0))
    return LabelledTrajectories(datasets.Store(datasets.build_cache(buffer, progress=False)), goals, "exorl")


def describe(data, agent=None, model=None):
    """The description of a small agent for the data."""
    return AgentDescription(
        task=TASK,
        seed=0,
        agent=agent or AgentConfig(trajectories=4),
        model=model or ModelConfig(width=16, layers=1),
        scaling=data.scaling(2.0),
        observation_size=data.store.observation_size,
        action_size=data.store.action_size,
        steps=int(data.store.lengths[0]),
        best_return=float(data.returns.max()),
    )


def untrained_policy(description, seed=0):
    """A policy with its initial parameters."""
    return Policy(*nnx.split(description.build(seed), nnx.Param), description)
