"""Rollouts with a growing context -> records, one row per finished trajectory.

Conditions (the column `condition`; n is the column `trajectories`):

    own         the n-th trajectory of one context in which trajectories 1..n-1 are the agent's own
    no_context  the same model's n-th attempt, its context empty each time
    foreign     one trajectory on this task after n-1 own trajectories on another task (any other: a
    goal may lie near) dataset     one trajectory after n-1 trajectories of the data relabelled for
    this task, ascending dt, bc, bc10, td3_bc   the n-th attempt of a baseline: an agent that acts
    without a context, see `baseline_condition` bayes_greedy, posterior_sampling
                no agent: ceilings of search with the data's own trajectories, see
                `agentic_transformer.evaluation.oracles`

The n-th attempts of all conditions on a task start from the same state. The return is the raw sum
of rewards; the best of n attempts is left to whoever reads the records.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import NamedTuple

import jax
import numpy as np
import pandas as pd
from gymnasium.vector import VectorEnv

import envs
from agentic_transformer.agents.base import Agent, Context, Trajectory
from agentic_transformer.config import AgentConfig, EvalConfig
from agentic_transformer.contexts.chains import ChainSampler, available_episodes
from agentic_transformer.contexts.relabelled import RelabelledDataset
from agentic_transformer.contexts.tokens import PreviousStep
from agentic_transformer.evaluation.oracles import ORACLES, search
from agentic_transformer.evaluation.search_metrics import Retries
from agentic_transformer.evaluation.statistics import BASELINES
from agentic_transformer.models.spec import AgentSpec
from agentic_transformer.random_streams import stream


class Attempt(NamedTuple):
    """One trajectory of every environment."""

    number: int
    """n, counted from 1: the trajectory's place in its context, itself included."""
    trajectory: Trajectory
    physics: np.ndarray
    """(batch, T + 1, P) stored physics states, for pictures."""
    encoded: int
    """Tokens per environment that went through the model for this attempt: its steps, their second
    encoding where targets are rewritten, and a prompt made for it alone."""
    again: np.ndarray | float = np.nan
    """(batch,) of `agentic_transformer.evaluation.search_metrics`, where attempts follow each other
    on hidden tasks whose data are at hand."""


def evaluation_tasks(task: str, config: EvalConfig, seed: int) -> list[envs.Task]:
    """The tasks to evaluate on, the same for every agent of a seed.

    Of a family of goals they are drawn anew: other goals than those of training, from the same
    distribution.
    """
    return envs.draw_tasks(task, config.tasks, stream("evaluation tasks", config.seed, seed))


def baseline_condition(agent: AgentConfig) -> str | None:
    """The condition of an agent that acts without a context, named after its kind; None for those
    that have one.
    """
    if agent.learner != "transformer":
        return agent.learner
    if agent.trajectories > 1:
        return None
    if agent.return_conditioning == "return":
        return "dt"
    return "bc" if agent.top == 1 else "bc10"


def conditions_of(agent: AgentConfig, config: EvalConfig) -> list[str]:
    """Returns what there is to evaluate: a model trained on single trajectories is a baseline and
    nothing else.
    """
    baseline = baseline_condition(agent)
    return [baseline] if baseline else list(config.conditions)


def other_tasks(tasks: Sequence[envs.Task], rng: np.random.Generator) -> list[envs.Task]:
    """For each task another one of its domain: of the list where it has others, else of the
    registry.

    Raises:
        ValueError: the domain has no other task.
    """
    by_id = {task.id: task for task in tasks}
    if len(by_id) == 1:
        domain, families = tasks[0].domain, envs.families()
        registered = (envs.task(name) for name in envs.tasks() if name not in families)
        by_id |= {task.id: task for task in registered if task.domain == domain}
    if len(by_id) == 1:
        raise ValueError(
            f"condition 'foreign' needs a second task of the domain of {tasks[0].id}; leave it out of eval.conditions"
        )
    others = {
        own: [task for other, task in by_id.items() if other != own]
        for own in {task.id for task in tasks}
    }
    return [others[task.id][rng.integers(len(others[task.id]))] for task in tasks]


def check_conditions(
    conditions: Sequence[str],
    tasks: Sequence[envs.Task],
    config: EvalConfig,
    agent: AgentConfig,
    episodes: int | None,
) -> None:
    """Raises a ValueError where conditions cannot be evaluated to their end.

    Args:
        conditions: of `Evaluation.conditions`.
        tasks: to evaluate on.
        config: of the evaluation.
        agent: settings of the agent.
        episodes: of the data; None: there are no data.
    """
    needing = [condition for condition in conditions if condition in ("dataset", *ORACLES)]
    if needing and episodes is None:
        raise ValueError(f"condition {needing[0]!r} needs the training data")
    if "foreign" in conditions:
        other_tasks(tasks, np.random.default_rng(0))
    if "dataset" in conditions:
        available, longest = available_episodes(episodes, agent.top), max(config.trajectories)
        top = f" (the best {agent.top:g} of {episodes})" if agent.top < 1 else ""
        if longest - 1 > available:
            raise ValueError(
                f"condition 'dataset' with eval.trajectories up to {longest} needs {longest - 1} trajectories of the data, "
                f"which have {available}{top}; allowed: up to {available + 1}, or leave it out of eval.conditions"
            )
        if agent.trajectories > available:
            raise ValueError(
                f"condition 'dataset' draws from at least agent.trajectories={agent.trajectories} trajectories, as in training, "
                f"and the data have {available}{top}; bring the data of the training back (data.root), or leave it out of "
                f"eval.conditions"
            )


def _check_same_shape(data: RelabelledDataset, description: AgentSpec) -> None:
    """Raises a ValueError unless trajectories have the sizes and steps of those that an agent was
    trained on.
    """
    there = data.store.observation_size, data.store.action_size, int(data.store.lengths[0])
    trained = description.observation_size, description.action_size, description.steps
    for what, here, expected in zip(
        ("observations", "actions", "trajectories"), there, trained, strict=True
    ):
        if here != expected:
            unit = "steps" if what == "trajectories" else "numbers"
            raise ValueError(
                f"the data's {what} have {here} {unit}, those of training had {expected}: these are other data"
            )


class Evaluation:
    """One agent on the tasks of one seed."""

    def __init__(
        self,
        policy: Agent,
        tasks: Sequence[envs.Task],
        config: EvalConfig,
        data: RelabelledDataset | None = None,
        hypotheses: np.ndarray | None = None,
    ) -> None:
        """Prepares an evaluation.

        Args:
            policy: the agent.
            tasks: one per environment of the batch.
            config: how many trajectories, and how actions are drawn.
            data: trajectories labelled for `tasks`, in their order; needed for the condition
                "dataset" and the ceilings.
            hypotheses: (tasks, episodes) returns of these trajectories under the training tasks;
                needed for the ceilings.
        """
        self.policy = policy
        self.description = policy.spec
        self.tasks = list(tasks)
        self.config = config
        self.data = data
        self.hypotheses = hypotheses
        self.longest = max(config.trajectories)

    def conditions(self) -> list[str]:
        """What there is to evaluate."""
        return conditions_of(self.description.agent, self.config)

    def check(self, conditions: Sequence[str] | None = None) -> None:
        """Raises a ValueError where conditions lack what they need, so that this is known before
        the agent acts.

        Args:
            conditions: which; None: all there are.
        """
        conditions = self.conditions() if conditions is None else conditions
        episodes = None if self.data is None else self.data.returns.shape[1]
        check_conditions(conditions, self.tasks, self.config, self.description.agent, episodes)
        if self.data is not None:
            _check_same_shape(self.data, self.description)

    def attempts(self, condition: str) -> Iterator[Attempt]:
        """The attempts 1 to the longest of one condition.

        Raises:
            ValueError: it lacks what it needs, see `check_conditions`.
        """
        self.check([condition])
        run = self._run(condition)
        if (
            self.data is None
            or len(set(self.tasks)) == 1
            or condition not in ("own", "no_context", *BASELINES)
        ):
            yield from run
            return
        retries = Retries(self.tasks, self.data.returns.max(axis=1), self.description.action_repeat)
        for attempt in run:
            yield attempt._replace(again=retries(attempt.physics, attempt.trajectory.reward))

    def _run(self, condition: str) -> Iterator[Attempt]:
        run = {
            "own": self._own,
            "no_context": self._no_context,
            "foreign": self._foreign,
            "dataset": self._dataset,
            **dict.fromkeys(BASELINES, self._no_context),
            **dict.fromkeys(ORACLES, self._ceiling),
        }[condition]
        return run(condition)

    def records(self, condition: str, attempt: Attempt) -> pd.DataFrame:
        """One row per environment."""
        context = 0 if condition in ("no_context", *BASELINES) else attempt.number - 1
        return pd.DataFrame(
            {
                "agent": self.description.agent.name,
                "task": self.description.task,
                "condition": condition,
                "seed": self.description.seed,
                "task_id": [task.id for task in self.tasks],
                "rollout": np.arange(len(self.tasks)),
                "trajectories": attempt.number,
                "context_steps": context * self.description.steps,
                "context_tokens": context
                * self.description.steps
                * self.policy.layout.tokens_per_step,
                "trained_trajectories": self.description.agent.trajectories,
                "encoded_tokens": attempt.encoded,
                "best_return": np.nan if self.data is None else self.data.returns.max(axis=1),
                "again": attempt.again,
                "return": attempt.trajectory.reward.sum(axis=1, dtype=np.float64),
            }
        )

    def _own(self, condition: str) -> Iterator[Attempt]:
        with closing(self._make_env(self.tasks)) as env:
            context = self._new_context(self.longest)
            for number in range(1, self.longest + 1):
                attempt, context = self._attempt(env, context, number, condition)
                yield attempt

    def _no_context(self, condition: str) -> Iterator[Attempt]:
        with closing(self._make_env(self.tasks)) as env:
            for number in range(1, self.longest + 1):
                yield self._attempt(env, self._new_context(1), number, condition, keep=False)[0]

    def _foreign(self, condition: str) -> Iterator[Attempt]:
        others = other_tasks(self.tasks, self._stream("other tasks"))
        with (
            closing(self._make_env(self.tasks)) as env,
            closing(self._make_env(others)) as elsewhere,
        ):
            context = self._new_context(self.longest)
            for number in range(1, self.longest + 1):
                yield self._attempt(env, context.copy(), number, condition, keep=False)[0]
                if number < self.longest:
                    _, context = self._attempt(elsewhere, context, number, "own, elsewhere")

    def _dataset(self, condition: str) -> Iterator[Attempt]:
        with closing(self._make_env(self.tasks)) as env:
            sampler = ChainSampler(self.data.returns, self.description.agent, seed=0)
            for number in range(1, self.longest + 1):
                rng = self._stream("prompts", number)
                episodes = np.stack(
                    [sampler.draw_trajectories(rng, i, number - 1) for i in range(len(self.tasks))]
                )
                context = self._new_context(self.longest)  # one shape for all n: one compilation
                for episode in episodes.T:
                    trajectories, reward = self.data.load(np.arange(len(self.tasks)), episode)
                    target = self._remembered_target(reward, asked=self._asked())
                    context = self.policy.append(context, Trajectory(*trajectories, reward, target))
                attempt, _ = self._attempt(env, context, number, condition, keep=False)
                yield attempt._replace(encoded=attempt.encoded + context.encoded)

    def _ceiling(self, condition: str) -> Iterator[Attempt]:
        chosen = search(
            self.hypotheses, self.data.returns, self.longest, condition, self._stream(condition)
        )
        for number, episode in enumerate(chosen.T, 1):
            trajectories, reward = self.data.load(np.arange(len(self.tasks)), episode)
            trajectory = Trajectory(
                *trajectories, reward, target=reward.sum(axis=1, dtype=np.float64)
            )
            yield Attempt(number, trajectory, physics=np.empty((len(self.tasks), 0, 0)), encoded=0)

    def _make_env(self, tasks: Sequence[envs.Task]) -> VectorEnv:
        """Environments whose steps are those of the training data."""
        return envs.make_vec(
            tasks, action_repeat=self.description.action_repeat, horizon=self.description.steps
        )

    def _new_context(self, trajectories: int) -> Context:
        return self.policy.new_context(len(self.tasks), trajectories)

    def _stream(self, purpose: str, *numbers: int) -> np.random.Generator:
        return stream(purpose, self.config.seed, self.description.seed, *numbers)

    def _asked(self) -> np.ndarray:
        """The return asked for at the start of every attempt: a fraction of the best of the
        training data; (batch,).
        """
        return np.full(len(self.tasks), self.config.target * self.description.best_return)

    def _remembered_target(self, reward: np.ndarray, asked: np.ndarray) -> np.ndarray:
        """The target a finished trajectory carries in the context, as in training: its own return,
        or the chain's; (batch,).
        """
        return (
            reward.sum(axis=1, dtype=np.float64)
            if self.description.agent.target == "own"
            else asked
        )

    def _attempt(
        self, env: VectorEnv, before: Context, number: int, condition: str, keep: bool = True
    ) -> tuple[Attempt, Context]:
        """Runs one trajectory; with `keep` the context returned carries it as training data would."""
        # The start is that of every condition's n-th attempt, the random key is not.
        start = int(self._stream("starts", number).integers(2**31))
        key = jax.random.key(int(self._stream(f"actions, {condition}", number).integers(2**31)))
        trajectory, physics, context = run_trajectory(
            self.policy, env, before, self._asked(), start, key, self.config
        )
        remembered = self._remembered_target(trajectory.reward, trajectory.target)
        # Tokens that carry nothing of the target are in the context already as they shall be.
        if keep and self.policy.layout.conditioned and np.any(remembered != trajectory.target):
            context = self.policy.append(
                context.rewind(before), trajectory._replace(target=remembered)
            )
        return Attempt(number, trajectory, physics, context.encoded - before.encoded), context


def run_trajectory(
    policy: Agent,
    env: VectorEnv,
    context: Context,
    target: np.ndarray,
    start: int,
    key: jax.Array,
    config: EvalConfig,
) -> tuple[Trajectory, np.ndarray, Context]:
    """One trajectory of every environment.

    Args:
        policy: the agent.
        env: batch of environments of one domain.
        context: what is remembered; consumed.
        target: (batch,) return asked for.
        start: seed of the start states.
        key: random key of the actions.
        config: how actions are drawn.

    Returns:
        The trajectory, physics states (batch, T + 1, P), and the context with the trajectory's
        tokens as they were acted on.
    """
    observation, info = env.reset(seed=start)
    to_go = target.astype(np.float64)
    seen, physics = [], [info["physics"]]
    steps = policy.spec.steps
    for step in range(steps):
        action, context = policy.act(
            context,
            to_go,
            observation,
            step,
            jax.random.fold_in(key, step),
            config.temperature,
            config.noise,
        )
        following, reward, _, _, info = env.step(action)
        seen.append((observation, action, reward))
        physics.append(info["physics"])
        to_go = to_go - reward
        context = context.observe(PreviousStep(action, reward, np.zeros(len(reward))))
        observation = following
    observations, actions, rewards = (
        np.stack(column, axis=1) for column in zip(*seen, strict=True)
    )
    done = policy.layout.completion(target, rewards)[:, -1]
    context = context.observe(context.previous._replace(done=done))
    return Trajectory(observations, actions, rewards, target), np.stack(physics, axis=1), context
