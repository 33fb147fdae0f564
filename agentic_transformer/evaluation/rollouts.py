"""Rolls agents out with a growing context, under conditions that say what the context holds.

Conditions (the column `condition` of records; n is the column `trajectories`):

    own         The n-th trajectory of one context. Trajectories 1..n-1 are the agent's own.
    no_context  The n-th attempt of the same model, with an empty context each time.
    foreign     One trajectory on this task after n-1 own trajectories on another task of the
                evaluation, which may have a goal nearby.
    dataset     One trajectory after n-1 trajectories of the data, relabelled for this task, in
                order of return.
    zero_rewards, other_rewards, shuffled
                One trajectory after the trajectories 1..n-1 of condition `own`, which are changed:
                their rewards are 0; or their rewards are those of the same attempt in another
                rollout, of another task if there is one; or their order is shuffled.
    retrieval, distractors
                One trajectory after n-1 trajectories of the data that show nothing of the task; in
                `retrieval` one of them is replaced by a good one, `distance` places before the
                end, see `agentic_transformer.evaluation.retrieval`.
    dt, bc, bc10, single, td3, td3_bc, iql, cql, crr, learner
                The n-th attempt of a baseline: an agent that acts without a context, see
                `agentic_transformer.evaluation.conditions.baseline_condition`. `learner` is an
                agent whose learner is in a user's own module.
    bc_told, single_told, td3_told, td3_bc_told, iql_told, cql_told, crr_told, learner_told
                The n-th attempt of a baseline that observes the parameters of the task.
    bayes_greedy, posterior_sampling
                No agent: an oracle that searches with the data's own trajectories, see
                `agentic_transformer.evaluation.oracles`.

A context holds at most `eval.window` trajectories, the one that is acted included. Of more than
these, the last ones are kept.

The n-th attempts of all conditions on a task start from the same state, except those of oracles,
which are trajectories of the data. The return is the raw sum of rewards. The best of n attempts is
computed from the records, see `evaluation.statistics.with_best`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing

import numpy as np
import pandas as pd
from gymnasium.spaces import Box
from gymnasium.vector import VectorEnv
from gymnasium.wrappers.vector import TransformObservation

import envs
from agentic_transformer.agents.attempts import GrowingContext, Player
from agentic_transformer.agents.base import Agent, Attempt, Trajectory
from agentic_transformer.config import BASELINES, EvalConfig
from agentic_transformer.contexts.chains import ChainSampler
from agentic_transformer.contexts.relabelled import RelabelledDataset, append_parameters
from agentic_transformer.evaluation.conditions import (
    check_conditions,
    check_retrieval,
    check_sizes,
    conditions_of,
    other_tasks,
)
from agentic_transformer.evaluation.oracles import ORACLES, search
from agentic_transformer.evaluation.prompts import CHANGED, change, draw_partners
from agentic_transformer.evaluation.retrieval import RETRIEVAL, distances, draw_prompts, place
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
            data: trajectories relabelled for `tasks`, in their order; needed for the conditions of
                `conditions.NEED_DATA`, and for the repeat miss rate.
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
        """Checks, before the agent acts, that no condition lacks what it needs.

        Args:
            conditions: which to check; None checks all.

        Raises:
            ValueError: see `check_conditions`, `check_sizes` and `check_retrieval`.
        """
        conditions = self.conditions() if conditions is None else conditions
        episodes = None if self.data is None else self.data.returns.shape[1]
        check_conditions(conditions, self.tasks, self.config, self.spec.agent, episodes)
        if self.data is not None:
            check_sizes(self.data, self.spec)
        if set(RETRIEVAL) & set(conditions):
            check_retrieval(self.tasks, self.config, self.data.returns)

    def count(self, condition: str) -> int:
        """Returns how many attempts a condition has."""
        if condition not in RETRIEVAL:
            return self.longest
        return sum(len(self._places(condition, n)) for n in set(self.config.trajectories))

    def attempts(self, condition: str) -> Iterator[Attempt]:
        """Yields the attempts of one condition, as many as `count` says.

        Raises:
            ValueError: the condition lacks what it needs, see `check`.
        """
        self.check([condition])
        run = {
            "own": self._own,
            "no_context": self._no_context,
            "foreign": self._foreign,
            "dataset": self._dataset,
            **dict.fromkeys(CHANGED, self._changed),
            **dict.fromkeys(RETRIEVAL, self._retrieval),
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
        if self.config.window is not None:
            in_context = min(in_context, self.config.window - 1)
        entropy = np.broadcast_to(attempt.trajectory.entropy, attempt.rewards.shape)
        context_steps = in_context * self.spec.steps
        return pd.DataFrame(
            {
                "agent": self.spec.agent.name + elsewhere,
                "task": self.task,
                "condition": condition,
                "seed": self.spec.seed,
                "eval_seed": self.config.seed,
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
                "window": np.nan if self.config.window is None else self.config.window,
                "distance": attempt.distance,
                "action_entropy": entropy.mean(axis=1),
                "first_action_entropy": entropy[:, 0],
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
            past = GrowingContext(self._player, self.longest)
            for number in range(1, self.longest + 1):
                context = past.context().copy()
                yield self._player.attempt(env, context, number, condition, keep=False)[0]
                if number < self.longest:
                    past.attempt(other_env, number, "own, elsewhere")

    def _changed(self, condition: str) -> Iterator[Attempt]:
        """Yields attempts after the own trajectories of condition `own`, changed in one thing."""
        partner = draw_partners(self.tasks, self._player.stream("partners"))
        with closing(self._make_env(self.tasks)) as env:
            past = GrowingContext(self._player, self.longest)
            for number in range(1, self.longest + 1):
                rng = self._player.stream(f"order, {condition}", number)
                prompt = change(condition, past.trajectories, partner, rng)
                yield self._prompted_attempt(env, prompt, number, condition)
                if number < self.longest:
                    past.attempt(env, number, "own")  # as in that condition, draw for draw

    def _dataset(self, condition: str) -> Iterator[Attempt]:
        """Yields attempts after trajectories of the data."""
        with closing(self._make_env(self.tasks)) as env:
            sampler = ChainSampler(self.data.returns, self.spec.agent, seed=0)
            for number in range(1, self.longest + 1):
                rng = self._player.stream("prompts", number)
                # (batch, n - 1)
                episodes = np.stack(
                    [sampler.draw_trajectories(rng, i, number - 1) for i in range(len(self.tasks))]
                )
                yield self._prompted_attempt(env, self._of_data(episodes), number, condition)

    def _retrieval(self, condition: str) -> Iterator[Attempt]:
        """Yields attempts after poor trajectories of the data, with a good one among them."""
        with closing(self._make_env(self.tasks)) as env:
            sampler = ChainSampler(self.data.returns, self.spec.agent, seed=0)
            for number in sorted(set(self.config.trajectories)):
                # Both conditions and all distances draw the same trajectories and actions.
                rng = self._player.stream("retrieval", number)
                poor, good = draw_prompts(sampler, number - 1, rng)
                for distance in self._places(condition, number):
                    episodes = poor if np.isnan(distance) else place(poor, good, distance)
                    attempt = self._prompted_attempt(
                        env, self._of_data(episodes), number, "retrieval", number
                    )
                    yield attempt._replace(distance=distance)

    def _places(self, condition: str, number: int) -> list[float]:
        """Returns the distances of the informative trajectory; NaN if the context holds none."""
        return distances(number) if condition == "retrieval" else [np.nan]

    def _prompted_attempt(
        self,
        env: VectorEnv,
        prompt: Sequence[Trajectory],
        number: int,
        condition: str,
        room: int | None = None,
    ) -> Attempt:
        """Runs one trajectory after the last trajectories of a prompt that the window allows.

        All contexts have room for the longest one, or for `room` trajectories. So they have one
        shape, and the program is compiled once.
        """
        if self.config.window is not None:
            prompt = prompt[max(0, len(prompt) + 1 - self.config.window) :]
        context = self._player.prompted(prompt, room or self.longest)
        attempt, _ = self._player.attempt(env, context, number, condition, keep=False)
        return attempt._replace(encoded=attempt.encoded + context.encoded)

    def _of_data(self, episodes: np.ndarray) -> list[Trajectory]:
        """Returns trajectories of the data, (batch, m) indices, as m trajectories of the batch."""
        loaded = (self.data.load(np.arange(len(self.tasks)), episode) for episode in episodes.T)
        target = self._player.target()
        return [Trajectory(*trajectories, reward, target) for trajectories, reward in loaded]

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
