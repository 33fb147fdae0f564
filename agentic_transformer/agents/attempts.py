"""Runs attempts at hidden tasks in a growing context: what an evaluation does, and `Agent.play`.

A plain loop, which steps an environment and keeps its tokens as the context, earns less. While an
attempt runs, its tokens carry the return that was asked for. In training data with
`agent.target=own` they carry the return that the trajectory had. So a finished attempt is encoded
once more, with its own return as the target.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import gymnasium
import jax
import numpy as np
from gymnasium.vector import VectorEnv

from agentic_transformer.agents.base import Agent, Attempt, Context, Trajectory
from agentic_transformer.agents.entropies import action_entropies
from agentic_transformer.config import EvalConfig
from agentic_transformer.contexts.chains import near_best
from agentic_transformer.contexts.tokens import PreviousStep
from agentic_transformer.models.spec import AgentSpec
from agentic_transformer.random_streams import stream


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
        env: batch of environments of one domain, whose steps are those of the training data.
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
    steps, physics, outputs = [], [info["physics"]], []
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
        outputs.append(context.outputs)
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
    entropy = np.nan if outputs[0] is None else action_entropies(agent.spec.model, outputs, key)
    trajectory = Trajectory(observations, actions, rewards, target, entropy)
    return trajectory, np.stack(physics, axis=1), context


class Player:
    """Runs the attempts of one agent for a batch of environments.

    Every draw is a function of the settings' seed, the agent's seed and the attempt's number.
    """

    def __init__(self, agent: Agent, batch: int, config: EvalConfig) -> None:
        """Prepares to play.

        Args:
            agent: the agent.
            batch: number of environments.
            config: the seed, the target return, and how actions are drawn.
        """
        self.agent, self.batch, self.config = agent, batch, config

    def grow(self, env: VectorEnv, attempts: int) -> Iterator[Attempt]:
        """Yields attempts that all stay in one context, as condition "own" of an evaluation.

        Args:
            env: batch of environments whose steps are those of the training data, and whose tasks
                stay the same.
            attempts: how many.
        """
        past = GrowingContext(self, attempts)
        for number in range(1, attempts + 1):
            yield past.attempt(env, number, "own")

    def attempt(
        self, env: VectorEnv, before: Context, number: int, condition: str, keep: bool = True
    ) -> tuple[Attempt, Context]:
        """Runs one trajectory, and returns it with the context after it.

        Args:
            env: see `grow`.
            before: the context before the attempt; consumed.
            number: number of the attempt, counted from 1.
            condition: name of the condition, which seeds the draws of actions.
            keep: whether the returned context will be used. If so, the trajectory is encoded again
                where training data would carry another target, see `target_in_context`.
        """
        # The start is the same in every condition's n-th attempt, the random key is not.
        start = int(self.stream("starts", number).integers(2**31))
        key = jax.random.key(int(self.stream(f"actions, {condition}", number).integers(2**31)))
        trajectory, physics, context = run_trajectory(
            self.agent, env, before, self.target(), start, key, self.config
        )
        target = self.target_in_context(trajectory)
        # Tokens that do not depend on the target are right already.
        if keep and self.agent.layout.conditioned and np.any(target != trajectory.target):
            context = self.agent.append(context.rewind(before), trajectory._replace(target=target))
        return Attempt(number, trajectory, physics, context.encoded - before.encoded), context

    def new_context(self, trajectories: int) -> Context:
        """Returns empty contexts that can hold `trajectories` trajectories each."""
        return self.agent.new_context(self.batch, trajectories)

    def prompted(self, prompt: Sequence[Trajectory], room: int) -> Context:
        """Returns contexts that hold finished trajectories, as training data do.

        Args:
            prompt: the trajectories, in their order; their targets are those that were asked for.
            room: how many trajectories the contexts can hold.
        """
        context = self.new_context(room)
        for trajectory in prompt:
            target = self.target_in_context(trajectory)
            context = self.agent.append(context, trajectory._replace(target=target))
        return context

    def stream(self, purpose: str, *numbers: int) -> np.random.Generator:
        """Returns the generator of the draws for a purpose."""
        return stream(purpose, self.config.seed, self.agent.spec.seed, *numbers)

    def target(self) -> np.ndarray:
        """Returns the target return at the start of every attempt, (batch,).

        It is a share of the best return of the training data, see
        `agentic_transformer.contexts.chains.near_best`.
        """
        return np.full(self.batch, near_best(self.config.target, self.agent.spec.best_return))

    def target_in_context(self, trajectory: Trajectory) -> np.ndarray:
        """Returns the target that a finished trajectory carries in the context, (batch,).

        It is what training data carry: the trajectory's own return, or the chain's target, with
        which the agent was asked to act.
        """
        if self.agent.spec.agent.target == "own":
            return trajectory.reward.sum(axis=1, dtype=np.float64)
        return trajectory.target


class GrowingContext:
    """Runs attempts that stay in one context. A window may forget the oldest of them."""

    def __init__(self, player: Player, attempts: int) -> None:
        """Starts with an empty context.

        Args:
            player: runs the attempts; `window` of its settings says how many a context may hold,
                the one that is acted included.
            attempts: how many will be run.
        """
        self._player, self._window = player, player.config.window
        self._room = min(attempts, self._window or attempts)
        self._context: Context | None = player.new_context(self._room)
        self._encoded = 0  # tokens until the end of the last attempt
        self.trajectories: list[Trajectory] = []
        """Trajectories in the context, the oldest first."""

    def context(self) -> Context:
        """Returns the context before the next attempt."""
        if self._context is None:
            # Cached keys and values of later trajectories depend on the forgotten one, so all of
            # them are computed again.
            context = self._player.prompted(self.trajectories, self._room)
            self._context = replace(context, encoded=self._encoded + context.encoded)
        return self._context

    def attempt(self, env: VectorEnv, number: int, condition: str) -> Attempt:
        """Runs the next attempt, which the context then holds; see `Player.attempt`."""
        full = len(self.trajectories) + 1 == self._window
        attempt, context = self._player.attempt(
            env, self.context(), number, condition, keep=not full
        )
        self.trajectories.append(attempt.trajectory)
        if full:
            self.trajectories.pop(0)
        self._context = None if full else context
        attempt = attempt._replace(encoded=context.encoded - self._encoded)
        self._encoded = context.encoded
        return attempt


class Plays:
    """Lets an agent play in environments of `envs`; see `agentic_transformer.agents.base.Agent`."""

    spec: AgentSpec
    acting: EvalConfig = EvalConfig()
    """How `play` acts (seed, target, temperature, noise, window): as in the run's evaluation."""

    def play(
        self,
        env: gymnasium.Env | VectorEnv,
        attempts: int = 8,
        *,
        seed: int | None = None,
        target: float | None = None,
        temperature: float | None = None,
        noise: float | None = None,
    ) -> list[Attempt]:
        """Runs successive attempts at one hidden task, see `Agent.play`."""
        given = {"seed": seed, "target": target, "temperature": temperature, "noise": noise}
        chosen = {name: value for name, value in given.items() if value is not None}
        if attempts < 1:
            raise ValueError(f"attempts={attempts} must be a whole number, at least 1")
        steps = TrainedSteps(env, self.spec)
        return list(Player(self, steps.batch, replace(self.acting, **chosen)).grow(steps, attempts))


class TrainedSteps:
    """Steps environments of `envs` with the action repeat that an agent was trained with.

    The tasks that the first reset draws stay the same in later resets. A single environment becomes
    a batch of one.
    """

    def __init__(self, env: gymnasium.Env | VectorEnv, spec: AgentSpec) -> None:
        """Checks that the environments fit the agent.

        Args:
            env: of `envs.make` or `envs.make_vec`.
            spec: of the agent.

        Raises:
            ValueError: they are not of `envs`, their sizes, action repeat or horizon do not fit, or
                the agent observes parameters that no environment shows.
        """
        self._env, self._single = env, not isinstance(env, VectorEnv)
        self._options: dict[str, Any] | None = None
        self.batch = 1 if self._single else env.num_envs
        if not hasattr(env.unwrapped, "action_repeat"):
            raise ValueError(f"play: {env} is no environment of envs.make or envs.make_vec")
        self._held = _held_steps(env, spec)

    def reset(self, *, seed: int) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts an attempt in every environment; see `envs.make_vec`."""
        observation, info = self._env.reset(seed=seed, options=self._options)
        ours = self._env.unwrapped
        self._options = {"tasks": [ours.task] if self._single else list(ours.tasks)}
        return self._batched(observation), {"physics": self._batched(info["physics"])}

    def step(
        self, action: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Holds actions (batch, A) for one step of the agent, whose rewards are summed."""
        action, total = action[0] if self._single else action, 0.0
        for _ in range(self._held):
            observation, reward, terminated, truncated, info = self._env.step(action)
            total = total + reward
        told = map(self._batched, (observation, total, terminated, truncated))
        return *told, {"physics": self._batched(info["physics"])}

    def _batched(self, value: Any) -> np.ndarray:
        return np.asarray(value)[None] if self._single else value


def _held_steps(env: gymnasium.Env | VectorEnv, spec: AgentSpec) -> int:
    """Returns for how many steps of the environments an agent's action is held.

    Raises:
        ValueError: the environments do not fit the agent.
    """
    if spec.agent.told:
        raise ValueError(
            "play: the agent is told the parameters of its task, which no environment shows; "
            "allowed: python -m experiments.evaluate run=<its run>"
        )
    single, ours = not isinstance(env, VectorEnv), env.unwrapped
    spaces = (
        ("observations", env.observation_space if single else env.single_observation_space),
        ("actions", env.action_space if single else env.single_action_space),
    )
    trained = (spec.observation_size, spec.action_size)
    for (what, space), size in zip(spaces, trained, strict=True):
        if space.shape != (size,):
            raise ValueError(
                f"play: the environment's {what} have {space.shape[0]} numbers, those of the agent "
                f"{size}: it was trained on {spec.task}"
            )
    held, rest = divmod(spec.action_repeat, ours.action_repeat)
    if rest or ours.horizon < held * spec.steps:
        raise ValueError(
            f"play: an environment with action_repeat={ours.action_repeat} and "
            f"horizon={ours.horizon} does not fit an agent trained with "
            f"action_repeat={spec.action_repeat} and {spec.steps} steps; "
            "allowed: envs.make_vec without both"
        )
    return held
