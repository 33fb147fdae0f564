"""Rolls agents out with a growing context, under conditions that say what the context holds.

Conditions (the column `condition` of records; n is the column `trajectories`):

    own         The n-th trajectory of one context. Trajectories 1..n-1 are the agent's own.
    no_context  The n-th attempt of the same model, with an empty context each time.
    foreign     One trajectory on this task after n-1 own trajectories on another task (any other:
                its goal may lie near).
    dataset     One trajectory after n-1 trajectories of the data, relabelled for this task, in
                order of return.
    dt, bc, bc10, td3, td3_bc
                The n-th attempt of a baseline: an agent that acts without a context, see
                `agentic_transformer.evaluation.conditions.baseline_condition`.
    bc_told, td3_told, td3_bc_told
                The n-th attempt of a baseline that observes the parameters of the task.
    bayes_greedy, posterior_sampling
                No agent: an oracle that searches with the data's own trajectories, see
                `agentic_transformer.evaluation.oracles`.

The n-th attempts of all conditions on a task start from the same state. The return is the raw sum
of rewards. Whoever reads the records computes the best of n attempts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import NamedTuple

import jax
import numpy as np
import pandas as pd
from gymnasium.spaces import Box
from gymnasium.vector import VectorEnv
from gymnasium.wrappers.vector import TransformObservation

import envs
from agentic_transformer.agents.base import Agent, Context, Trajectory
from agentic_transformer.config import EvalConfig
from agentic_transformer.contexts.chains import ChainSampler
from agentic_transformer.contexts.relabelled import RelabelledDataset, append_parameters
from agentic_transformer.contexts.tokens import PreviousStep
from agentic_transformer.evaluation.conditions import (
    check_conditions,
    check_sizes,
    conditions_of,
    other_tasks,
)
from agentic_transformer.evaluation.oracles import ORACLES, search
from agentic_transformer.evaluation.records import BASELINES
from agentic_transformer.evaluation.search_metrics import RepeatMissRate
from agentic_transformer.random_streams import stream


class Attempt(NamedTuple):
    """Holds one trajectory of every environment of a batch, and what it cost."""

    number: int
    """n, counted from 1: the trajectory's place in its context, itself included."""
    trajectory: Trajectory
    physics: np.ndarray
    """(batch, T + 1, P) stored physics states, for pictures."""
    encoded: int
    """Tokens per environment that went through the model for this attempt: its steps, their second
    encoding if targets are rewritten, and a prompt that was made for this attempt alone."""
    repeat_miss_rate: np.ndarray | float = np.nan
    """(batch,) of `agentic_transformer.evaluation.search_metrics`, if attempts follow each other on
    hidden tasks and the data are at hand."""


def run_trajectory(
    agent: Agent,
    env: VectorEnv,
    context: Context,
    target: np.ndarray,
    start: int,
    key: jax.Array,
    config: EvalConfig,
) -> tuple[Trajectory, np.ndarray, Context]:
    """Runs one trajectory of every environment.

    Args:
        agent: the agent.
        env: batch of environments of one domain.
        context: what the agents remember; consumed.
        target: (batch,) target return.
        start: seed of the start states.
        key: random key of the actions.
        config: how actions are drawn.

    Returns:
        The trajectory, the physics states (batch, T + 1, P), and the context with the trajectory's
        tokens as they were acted on.
    """
    observation, info = env.reset(seed=start)
    return_to_go = target.astype(np.float64)
    steps, physics = [], [info["physics"]]
    for step in range(agent.spec.steps):
        action, context = agent.act(
            context,
            return_to_go,
            observation,
            step,
            key,
            config.temperature,
            config.noise,
        )
        next_observation, reward, _, _, info = env.step(action)
        steps.append((observation, action, reward))
        physics.append(info["physics"])
        return_to_go = return_to_go - reward
        context = context.observe(PreviousStep(action, reward, np.zeros(len(reward))))
        observation = next_observation
    observations, actions, rewards = (
        np.stack(column, axis=1) for column in zip(*steps, strict=True)
    )
    # Whether the target was reached is known only now, after the last step.
    done = agent.layout.completion(target, rewards)[:, -1]
    context = context.observe(context.previous._replace(done=done))
    return Trajectory(observations, actions, rewards, target), np.stack(physics, axis=1), context


class Evaluation:
    """Evaluates one agent on the tasks of one seed."""

    def __init__(
        self,
        agent: Agent,
        tasks: Sequence[envs.Task],
        config: EvalConfig,
        data: RelabelledDataset | None = None,
        hypotheses: np.ndarray | None = None,
    ) -> None:
        """Prepares an evaluation.

        Args:
            agent: the agent.
            tasks: one per environment of the batch.
            config: how many trajectories, and how actions are drawn.
            data: trajectories labelled for `tasks`, in their order; needed for the condition
                "dataset" and the oracles.
            hypotheses: (training tasks, episodes) returns of these trajectories under the training
                tasks; needed for the oracles.
        """
        self.agent = agent
        self.spec = agent.spec
        self.tasks = list(tasks)
        self.config = config
        self.data = data
        self.hypotheses = hypotheses
        self.longest = max(config.trajectories)

    def conditions(self) -> list[str]:
        """Returns the conditions to evaluate."""
        return conditions_of(self.spec.agent, self.config)

    def check(self, conditions: Sequence[str] | None = None) -> None:
        """Raises a ValueError if a condition lacks what it needs, before the agent acts.

        Args:
            conditions: which to check; None checks all.

        Raises:
            ValueError: see `check_conditions` and `check_sizes`.
        """
        conditions = self.conditions() if conditions is None else conditions
        episodes = None if self.data is None else self.data.returns.shape[1]
        check_conditions(conditions, self.tasks, self.config, self.spec.agent, episodes)
        if self.data is not None:
            check_sizes(self.data, self.spec)

    def attempts(self, condition: str) -> Iterator[Attempt]:
        """Yields the attempts 1 to the longest of one condition.

        Raises:
            ValueError: the condition lacks what it needs, see `check`.
        """
        self.check([condition])
        run = {
            "own": self._own,
            "no_context": self._no_context,
            "foreign": self._foreign,
            "dataset": self._dataset,
            **dict.fromkeys(BASELINES, self._no_context),
            **dict.fromkeys(ORACLES, self._oracle),
        }[condition]
        if self._searches(condition):
            best = self.data.returns.max(axis=1)
            metric = RepeatMissRate(self.tasks, best, self.spec.action_repeat)
            for attempt in run(condition):
                rate = metric.update(attempt.physics, attempt.trajectory.reward)
                yield attempt._replace(repeat_miss_rate=rate)
        else:
            yield from run(condition)

    def _searches(self, condition: str) -> bool:
        """Returns whether attempts follow each other on hidden tasks whose data are at hand."""
        in_a_row = condition in ("own", "no_context", *BASELINES)
        return in_a_row and self.data is not None and len(set(self.tasks)) > 1

    def records(self, condition: str, attempt: Attempt) -> pd.DataFrame:
        """Returns the records of an attempt, one row per environment."""
        in_context = 0 if condition in ("no_context", *BASELINES) else attempt.number - 1
        context_steps = in_context * self.spec.steps
        return pd.DataFrame(
            {
                "agent": self.spec.agent.name,
                "task": self.spec.task,
                "condition": condition,
                "seed": self.spec.seed,
                "task_id": [task.id for task in self.tasks],
                "rollout": np.arange(len(self.tasks)),
                "trajectories": attempt.number,
                "context_steps": context_steps,
                "context_tokens": context_steps * self.agent.layout.tokens_per_step,
                "episode_steps": self.spec.steps * self.spec.action_repeat,
                "trained_trajectories": self.spec.agent.trajectories,
                "encoded_tokens": attempt.encoded,
                "best_return": np.nan if self.data is None else self.data.returns.max(axis=1),
                "repeat_miss_rate": attempt.repeat_miss_rate,
                "return": attempt.trajectory.reward.sum(axis=1, dtype=np.float64),
            }
        )

    def _own(self, condition: str) -> Iterator[Attempt]:
        """Yields attempts that all stay in one context."""
        with closing(self._make_env(self.tasks)) as env:
            context = self._new_context(self.longest)
            for number in range(1, self.longest + 1):
                attempt, context = self._attempt(env, context, number, condition)
                yield attempt

    def _no_context(self, condition: str) -> Iterator[Attempt]:
        """Yields attempts that each begin with an empty context."""
        with closing(self._make_env(self.tasks)) as env:
            for number in range(1, self.longest + 1):
                yield self._attempt(env, self._new_context(1), number, condition, keep=False)[0]

    def _foreign(self, condition: str) -> Iterator[Attempt]:
        """Yields attempts after own trajectories on other tasks."""
        others = other_tasks(self.tasks, self._stream("other tasks"))
        with (
            closing(self._make_env(self.tasks)) as env,
            closing(self._make_env(others)) as other_env,
        ):
            context = self._new_context(self.longest)
            for number in range(1, self.longest + 1):
                yield self._attempt(env, context.copy(), number, condition, keep=False)[0]
                if number < self.longest:
                    _, context = self._attempt(other_env, context, number, "own, elsewhere")

    def _dataset(self, condition: str) -> Iterator[Attempt]:
        """Yields attempts after trajectories of the data."""
        with closing(self._make_env(self.tasks)) as env:
            sampler = ChainSampler(self.data.returns, self.spec.agent, seed=0)
            for number in range(1, self.longest + 1):
                rng = self._stream("prompts", number)
                episodes = np.stack(
                    [sampler.draw_trajectories(rng, i, number - 1) for i in range(len(self.tasks))]
                )  # (batch, n - 1)
                # All contexts have room for the longest one: one shape, one compilation.
                context = self._new_context(self.longest)
                for episode in episodes.T:
                    trajectories, reward = self.data.load(np.arange(len(self.tasks)), episode)
                    target = self._target_in_context(reward, self._target())
                    context = self.agent.append(context, Trajectory(*trajectories, reward, target))
                attempt, _ = self._attempt(env, context, number, condition, keep=False)
                yield attempt._replace(encoded=attempt.encoded + context.encoded)

    def _oracle(self, rule: str) -> Iterator[Attempt]:
        """Yields the attempts of an oracle: trajectories of the data, and no physics states."""
        chosen = search(self.hypotheses, self.data.returns, self.longest, rule, self._stream(rule))
        for number, episode in enumerate(chosen.T, 1):
            trajectories, reward = self.data.load(np.arange(len(self.tasks)), episode)
            target = reward.sum(axis=1, dtype=np.float64)
            yield Attempt(
                number,
                Trajectory(*trajectories, reward, target),
                physics=np.empty((len(self.tasks), 0, 0)),
                encoded=0,
            )

    def _make_env(self, tasks: Sequence[envs.Task]) -> VectorEnv:
        """Makes environments whose steps and observations are those of the training data."""
        env = envs.make_vec(tasks, action_repeat=self.spec.action_repeat, horizon=self.spec.steps)
        if not self.spec.agent.told:
            return env
        numbers = envs.registry.parameters(tasks)
        return TransformObservation(
            env,
            lambda observation: append_parameters(observation, numbers),
            single_observation_space=Box(-np.inf, np.inf, (self.spec.observation_size,)),
        )

    def _new_context(self, trajectories: int) -> Context:
        return self.agent.new_context(len(self.tasks), trajectories)

    def _stream(self, purpose: str, *numbers: int) -> np.random.Generator:
        return stream(purpose, self.config.seed, self.spec.seed, *numbers)

    def _target(self) -> np.ndarray:
        """Returns the target return at the start of every attempt, (batch,).

        It is a fraction of the best return of the training data.
        """
        return np.full(len(self.tasks), self.config.target * self.spec.best_return)

    def _target_in_context(self, reward: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Returns the target that a finished trajectory carries in the context, (batch,).

        It is what training data carry: the trajectory's own return, or the chain's target.
        """
        if self.spec.agent.target == "own":
            return reward.sum(axis=1, dtype=np.float64)
        return target

    def _attempt(
        self, env: VectorEnv, before: Context, number: int, condition: str, keep: bool = True
    ) -> tuple[Attempt, Context]:
        """Runs one trajectory and returns it with the context behind it.

        With `keep`, the context carries the trajectory as training data would.
        """
        # The start is the same in every condition's n-th attempt, the random key is not.
        start = int(self._stream("starts", number).integers(2**31))
        key = jax.random.key(int(self._stream(f"actions, {condition}", number).integers(2**31)))
        trajectory, physics, context = run_trajectory(
            self.agent, env, before, self._target(), start, key, self.config
        )
        target = self._target_in_context(trajectory.reward, trajectory.target)
        # Tokens that do not depend on the target are right already.
        if keep and self.agent.layout.conditioned and np.any(target != trajectory.target):
            context = self.agent.append(context.rewind(before), trajectory._replace(target=target))
        return Attempt(number, trajectory, physics, context.encoded - before.encoded), context
