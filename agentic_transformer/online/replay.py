"""Keeps all that an online learner tried, and draws transitions under any task of a family."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from agentic_transformer.config import TD3Config
from agentic_transformer.contexts.transitions import Transitions
from datasets import Episode
from datasets.relabelling import measure_many
from envs import Task
from envs.registry import parameters
from envs.rewards import family_reward
from envs.task_draws import collection_params, name_params

_RANGE_DRAWS = 1000  # draws of a parameter that show its range


class Replay:
    """Holds episodes by action; an action is held for several environment steps.

    Attributes:
        episodes: how many it holds.
        returns: (episodes,), the sum of each episode's own rewards, over environment steps.
        params: (episodes, numbers), the parameters that each episode pursued.
    """

    def __init__(self, family: Task, capacity: int, steps: int, action_repeat: int) -> None:
        """Makes room.

        Args:
            family: with parameters; episodes pursue members of it.
            capacity: the largest number of episodes.
            steps: actions of an episode.
            action_repeat: environment steps that an action is held for.
        """
        self._reward, self._named = family_reward(family), partial(name_params, family)
        self._family = family
        self._learning = self._reward.learning or self._reward.reward
        self._steps, self._repeat, self._capacity = steps, action_repeat, capacity
        drawn = collection_params(family, _RANGE_DRAWS, np.random.default_rng(0))
        low, high = drawn.min(axis=0), drawn.max(axis=0)
        self._middle, half = (low + high) / 2, (high - low) / 2
        self._half = np.where(half > 0, half, 1)  # a parameter that never varies is only centred
        self.episodes = 0
        self.returns = np.zeros(capacity)
        self.params = np.zeros((capacity, drawn.shape[1]))
        self._arrays: dict[str, np.ndarray] = {}
        self._scale = np.float32(1)

    @property
    def params_size(self) -> int:
        """Returns how many numbers the parameters of a task have."""
        return self.params.shape[1]

    def add(self, episodes: Sequence[Episode], tasks: Sequence[Task]) -> None:
        """Adds a round of episodes, as read from their files, and the tasks that they pursued."""
        first, last = self.episodes, self.episodes + len(episodes)
        rows = slice(None, None, self._repeat)
        physics = np.concatenate([episode.physics[1:] for episode in episodes])
        # With the actions taken, as in the environment: some families charge a cost of control.
        taken = np.concatenate([episode.action[1:] for episode in episodes])
        (measured,) = measure_many(physics, [self._family], "exact", taken)
        new = {
            "observation": np.stack([episode.observation[rows] for episode in episodes]),
            # Row t holds the action that led to it.
            "action": np.stack([episode.action[1:][rows] for episode in episodes]),
            "measured": measured.reshape(len(episodes), self._steps, self._repeat, -1),
        }
        for key, values in new.items():
            if key not in self._arrays:
                shape = (self._capacity, *values.shape[1:])
                self._arrays[key] = np.zeros(shape, values.dtype)
            self._arrays[key][first:last] = values
        self.params[first:last] = parameters(tasks)
        named = self._named(self.params[first:last, None, None])
        paid = self._reward.reward(new["measured"], **named)
        self.returns[first:last] = paid.sum(axis=(1, 2))
        if not first:
            # Velocities are larger than angles, and grow as a body learns to move. So entries are
            # divided by twice their deviation in the first round, if that is above 1.
            deviation = new["observation"].std(axis=(0, 1), dtype=np.float64)
            self._scale = (1 / np.maximum(2 * deviation, 1)).astype(np.float32)
        self.episodes = last

    def told(self, observation: np.ndarray, params: np.ndarray) -> np.ndarray:
        """Returns what the learner sees: scaled observations, then parameters in about [-1, 1].

        Args:
            observation: (..., observation size).
            params: (..., numbers).

        Returns:
            (..., observation size + numbers) float32.
        """
        scaled = ((params - self._middle) / self._half).astype(np.float32)
        return np.concatenate([observation * self._scale, scaled], axis=-1, dtype=np.float32)

    def learning_reward(
        self, episode: np.ndarray, step: np.ndarray, params: np.ndarray
    ) -> np.ndarray:
        """Computes the rewards of actions for a learner, under any parameters.

        Args:
            episode: (count,) indices of episodes.
            step: (count,) indices of actions within them.
            params: (count, numbers) of the tasks.

        Returns:
            (count,), the sum over the environment steps that the action is held for.
        """
        named = self._named(params[:, None])  # the same for all environment steps of an action
        return self._learning(self._arrays["measured"][episode, step], **named).sum(axis=1)

    def draw(self, updates: int, config: TD3Config, rng: np.random.Generator) -> Transitions:
        """Draws a batch of transitions for each of several updates.

        A share of each batch is relabelled: other parameters are drawn, and the rewards are those
        that they would have paid. The reward is multiplied by 1 - discount, so that a value lies
        between the smallest and the largest reward. Episodes end by a time limit alone, so that no
        transition is terminal.

        Returns:
            arrays of the shapes (updates, batch, ...).
        """
        shape, count = (updates, config.batch), updates * config.batch
        episode = rng.integers(self.episodes, size=count)
        step = rng.integers(self._steps, size=count)
        params = self.params[episode].reshape(*shape, -1)
        others = round(config.relabelled * config.batch)
        drawn = collection_params(self._family, updates * others, rng)
        params[:, :others] = drawn.reshape(updates, others, self.params_size)
        params = params.reshape(count, -1)
        reward = (1 - config.discount) * self.learning_reward(episode, step, params)
        observation = self._arrays["observation"]
        flat = Transitions(
            observation=self.told(observation[episode, step], params),
            action=self._arrays["action"][episode, step],
            reward=reward.astype(np.float32),
            next_observation=self.told(observation[episode, step + 1], params),
        )
        return Transitions(*(array.reshape(*shape, *array.shape[1:]) for array in flat))
