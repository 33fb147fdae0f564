"""What acting asks of the host: programs started, arrays sent and fetched, programs compiled.

A small model's step on an accelerator waits for these more than for its arithmetic.
"""

from collections import Counter

import jax
import numpy as np
import pytest

from agentic_transformer.agents.base import Trajectory
from agentic_transformer.config import AgentConfig, ModelConfig
from agentic_transformer.contexts.normalizer import Normalizer
from agentic_transformer.contexts.tokens import PreviousStep
from agentic_transformer.models.spec import AgentSpec
from tests.host_traffic import programs_started
from tests.small_agents import untrained_agent

BATCH, STEPS, OBSERVATION, ACTION = 3, 5, 4, 2


@pytest.fixture(params=["packed", "separate"])
def agent(request):
    spec = AgentSpec(
        task="point_mass_goal", seed=0, agent=AgentConfig(trajectories=2),
        model=ModelConfig(width=16, layers=2, tokens=request.param),
        normalizer=Normalizer((0.0,) * OBSERVATION, (1.0,) * OBSERVATION, 1.0, 1.0),
        observation_size=OBSERVATION, action_size=ACTION, steps=STEPS, best_return=1.0,
    )  # fmt: skip
    return untrained_agent(spec)


def act(agent, context, key, steps):
    """Acts `steps` steps; nothing is learned of the environment."""
    for step in steps:
        action, context = agent.act(
            context, np.ones(BATCH), np.zeros((BATCH, OBSERVATION)), step, key, 1.0, 1.0
        )
        context = context.observe(PreviousStep(action, np.zeros(BATCH), np.zeros(BATCH)))
    return context


@pytest.mark.slow
def test_a_step_is_one_program_one_array_in_and_one_out(agent, monkeypatch):
    key = jax.random.key(0)
    context = act(agent, agent.new_context(BATCH, 2), key, range(2))  # compiles
    get, started, moved = jax.device_get, agent._programs, Counter()

    def fetch(tree):
        moved["out"] += len(jax.tree.leaves(tree))
        return get(tree)

    def start(*arguments):
        moved["in"] += sum(isinstance(x, np.ndarray) for x in jax.tree.leaves(arguments))
        return started.act(*arguments)

    monkeypatch.setattr(jax, "device_get", fetch)
    monkeypatch.setattr(agent, "_programs", started._replace(act=start))

    def three_steps():
        # What is not asked for by name, apart from the arguments of programs.
        with jax.transfer_guard("disallow"), jax.transfer_guard_host_to_device("allow"):
            act(agent, context, key, range(2, 5))

    assert set(programs_started(three_steps)) == {"PjitFunction(act)"}
    assert moved == {"in": 3, "out": 3}


def test_contexts_of_one_size_compile_nothing_anew(agent):
    """A fresh cache, one that was acted with and one that was appended to are alike to jit."""
    key, programs = jax.random.key(0), agent._programs
    trajectory = Trajectory(
        np.zeros((BATCH, STEPS, OBSERVATION)),
        np.zeros((BATCH, STEPS, ACTION), np.float32),
        np.zeros((BATCH, STEPS)),
        np.ones(BATCH),
    )
    act(agent, agent.new_context(BATCH, 2), key, range(STEPS))
    agent.append(agent.new_context(BATCH, 2), trajectory)
    compiled = programs.act._cache_size(), programs.extend._cache_size()
    context = agent.append(agent.new_context(BATCH, 2), trajectory)
    acted = act(agent, context.copy(), key, range(STEPS))
    assert (programs.act._cache_size(), programs.extend._cache_size()) == compiled
    # The separate layout encodes a step's outcome too where tokens come before: a shape more.
    agent.append(acted.rewind(context), trajectory)
    agent.append(context, trajectory)
    more = {"packed": 0, "separate": 1}[agent.spec.model.tokens]
    assert programs.extend._cache_size() == compiled[1] + more
