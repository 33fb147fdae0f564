"""Rolls agents out with a growing context, under conditions that say what the context holds.

Conditions (the column `condition` of records; n is the column `trajectories`):

    own         The n-th trajectory of one context. Trajectories 1..n-1 are the agent's own.
    no_context  The n-th attempt of the same model, with an empty context each time.
    foreign     One trajectory on this task after n-1 own trajectories on another task (any other:
                its goal may lie near).
    dataset     One trajectory after n-1 trajectories of the data, relabelled for this task, in
                order of return.
    dt, bc, bc10, td3_bc
                The n-th attempt of a baseline: an agent that acts without a context, see
                `agentic_transformer.evaluation.conditions.baseline_condition`.
    bayes_greedy, posterior_sampling
                No agent: an oracle that searches with the data's own trajectories, see
                `agentic_transformer.evaluation.oracles`.

The n-th attempts of all conditions on a task start from the same state. The return is the raw sum
of rewards. Whoever reads the records computes the best of n attempts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing

import numpy as np
import pandas as pd
from gymnasium.vector import VectorEnv

import envs
from agentic_transformer.agents.attempts import Attempt, Player
from agentic_transformer.agents.base import Agent, Trajectory
from agentic_transformer.config import EvalConfig
from agentic_transformer.contexts.chains import ChainSampler
from agentic_transformer.contexts.relabelled import RelabelledDataset
from agentic_transformer.evaluation.conditions import (
    check_conditions,
    check_sizes,
    conditions_of,
    other_tasks,
)
from agentic_transformer.evaluation.oracles import ORACLES, search
from agentic_transformer.evaluation.records import BASELINES
from agentic_transformer.evaluation.search_metrics import RepeatMissRate


class Evaluation:
    """Evaluates one agent on the tasks of one seed."""

    def __init__(
        self,
        agent: Agent,
        tasks: Sequence[envs.Task],
        config: EvalConfig,
        data: RelabelledDataset | None = None,
        hypotheses: np.ndarray | None = None,
        task: str | None = None,
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
            task: the task or family that `tasks` are of; None: the one that the agent was trained
                on.
        """
        self.agent = agent
        self.spec = agent.spec
        self.tasks = list(tasks)
        self.config = config
        self.data = data
        self.hypotheses = hypotheses
        self.task = task or self.spec.task
        self.longest = max(config.trajectories)
        self._player = Player(agent, len(self.tasks), config)

    def conditions(self) -> list[str]:
        """Returns the conditions to evaluate."""
        return conditions_of(self.spec.agent, self.config, self.task)

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
        """Returns the records of an attempt, one row per environment.

        An agent that was trained on another task says so in its name.
        """
        elsewhere = "" if self.task == self.spec.task else f" trained on {self.spec.task}"
        in_context = 0 if condition in ("no_context", *BASELINES) else attempt.number - 1
        context_steps = in_context * self.spec.steps
        return pd.DataFrame(
            {
                "agent": self.spec.agent.name + elsewhere,
                "task": self.task,
                "condition": condition,
                "seed": self.spec.seed,
                "task_id": [task.id for task in self.tasks],
                "rollout": np.arange(len(self.tasks)),
                "trajectories": attempt.number,
                "context_steps": context_steps,
                "context_tokens": context_steps * self.agent.layout.tokens_per_step,
                "trained_trajectories": self.spec.agent.trajectories,
                "encoded_tokens": attempt.encoded,
                "best_return": np.nan if self.data is None else self.data.returns.max(axis=1),
                "repeat_miss_rate": attempt.repeat_miss_rate,
                "return": attempt.returns,
            }
        )

    def _own(self, condition: str) -> Iterator[Attempt]:
        """Yields attempts that all stay in one context."""
        with closing(self._make_env(self.tasks)) as env:
            yield from self._player.grow(env, self.longest)

    def _no_context(self, condition: str) -> Iterator[Attempt]:
        """Yields attempts that each begin with an empty context."""
        with closing(self._make_env(self.tasks)) as env:
            for number in range(1, self.longest + 1):
                context = self._player.new_context(1)
                yield self._player.attempt(env, context, number, condition, keep=False)[0]

    def _foreign(self, condition: str) -> Iterator[Attempt]:
        """Yields attempts after own trajectories on other tasks."""
        others = other_tasks(self.tasks, self._player.stream("other tasks"))
        with (
            closing(self._make_env(self.tasks)) as env,
            closing(self._make_env(others)) as other_env,
        ):
            context = self._player.new_context(self.longest)
            for number in range(1, self.longest + 1):
                yield self._player.attempt(env, context.copy(), number, condition, keep=False)[0]
                if number < self.longest:
                    _, context = self._player.attempt(other_env, context, number, "own, elsewhere")

    def _dataset(self, condition: str) -> Iterator[Attempt]:
        """Yields attempts after trajectories of the data."""
        with closing(self._make_env(self.tasks)) as env:
            sampler = ChainSampler(self.data.returns, self.spec.agent, seed=0)
            for number in range(1, self.longest + 1):
                rng = self._player.stream("prompts", number)
                episodes = np.stack(
                    [sampler.draw_trajectories(rng, i, number - 1) for i in range(len(self.tasks))]
                )  # (batch, n - 1)
                # All contexts have room for the longest one: one shape, one compilation.
                context = self._player.new_context(self.longest)
                for episode in episodes.T:
                    trajectories, reward = self.data.load(np.arange(len(self.tasks)), episode)
                    target = self._player.target_in_context(reward, self._player.target())
                    context = self.agent.append(context, Trajectory(*trajectories, reward, target))
                attempt, _ = self._player.attempt(env, context, number, condition, keep=False)
                yield attempt._replace(encoded=attempt.encoded + context.encoded)

    def _oracle(self, rule: str) -> Iterator[Attempt]:
        """Yields the attempts of an oracle: trajectories of the data, and no physics states."""
        chosen = search(
            self.hypotheses, self.data.returns, self.longest, rule, self._player.stream(rule)
        )
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
        """Makes environments whose steps are those of the training data."""
        return envs.make_vec(tasks, action_repeat=self.spec.action_repeat, horizon=self.spec.steps)
