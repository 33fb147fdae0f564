"""Every kind of agent has the methods of the protocol, and the package exports what users need."""

import inspect
import subprocess
import sys

import pytest

import agentic_transformer
from agentic_transformer.agents.base import Agent
from agentic_transformer.agents.load import load
from agentic_transformer.evaluation.learning_curve import train
from agentic_transformer.learners import LEARNERS, acting_class
from agentic_transformer.ring import ring_attention
from tests.processes import environment


@pytest.mark.parametrize("method", ["new_context", "act", "append"])
@pytest.mark.parametrize("learner", LEARNERS)
def test_agents_have_the_methods_of_the_protocol(learner, method):
    agent = acting_class(learner)
    found, expected = (inspect.signature(getattr(each, method)) for each in (agent, Agent))
    assert found == expected


def test_the_package_exports_what_users_need():
    exported = [getattr(agentic_transformer, name) for name in agentic_transformer.__all__]
    assert exported == [Agent, load, ring_attention, train]
    assert set(agentic_transformer.__all__) <= set(dir(agentic_transformer))
    with pytest.raises(AttributeError, match="has no attribute 'agent'"):
        _ = agentic_transformer.agent


def test_the_package_is_imported_without_jax():
    script = "import sys, agentic_transformer; print('jax' in sys.modules)"
    line = [sys.executable, "-c", script]
    done = subprocess.run(line, env=environment(), capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
