"""Small data, models and runs that several tests share."""

from flax import nnx

import datasets
import envs
from agentic_transformer.agents.transformer import TransformerAgent
from agentic_transformer.config import AgentConfig, ModelConfig
from agentic_transformer.contexts.relabelled import RelabelledDataset
from agentic_transformer.models.spec import AgentSpec
from tests.seeds import SEED, rng

TASK = "point_mass_goal"


def labelled(folder, episodes=40, tasks=3):
    """Trajectories of noisy controllers under a few goals."""
    buffer = datasets.buffer_folder(folder, TASK, "pd")
    datasets.collect(TASK, buffer, episodes=episodes, seed=SEED, collector="pd", progress=False)
    goals = envs.training_tasks(TASK, tasks, rng(0))
    return RelabelledDataset(
        datasets.Store(datasets.build_cache(buffer, progress=False)), goals, "exorl"
    )


def describe(data, agent=None, model=None):
    """The spec of a small agent for the data."""
    return AgentSpec(
        task=TASK,
        seed=0,
        agent=agent or AgentConfig(trajectories=4),
        model=model or ModelConfig(width=16, layers=1),
        normalizer=data.normalizer(2.0),
        observation_size=data.store.observation_size,
        action_size=data.store.action_size,
        steps=int(data.store.lengths[0]),
        best_return=float(data.returns.max()),
    )


def untrained_agent(spec, seed=SEED):
    """A agent with its initial parameters."""
    return TransformerAgent(*nnx.split(spec.build(seed), nnx.Param), spec)


def forward_operations(spec, trajectories=None):
    """Returns how many roundings lie on the longest way from a token to an output.

    They are the terms of all sums on that way.

    Of a layer: the mean and variance of two norms, products over width (queries, outputs), head
    size, the context (the sum of the weights and that with values), width and the inner width of
    the feedforward network.
    """
    model = spec.model
    context = (trajectories or spec.agent.trajectories) * spec.steps * spec.layout().tokens_per_step
    layer = (
        4 * model.width
        + 2 * model.width
        + model.width // model.heads
        + 2 * context
        + (1 + model.feedforward) * model.width
    )
    return spec.layout().feature_size + model.layers * layer + 3 * model.width


def kept_operations(model):
    """Returns how many numbers on that way are rounded to the type that the model computes in.

    Sums are float32 throughout.

    The first, and of a layer: two norms, query or key, weight, attention, three other products, two
    sums with what came in.
    """
    return 1 + 10 * model.layers


def longest_sum(spec, rows):
    """Returns the terms of a step's longest sum: over a layer's features or all rows' tokens."""
    layout, model = spec.layout(), spec.model
    tokens = rows * spec.agent.trajectories * spec.steps * layout.tokens_per_step
    return max(model.feedforward * model.width, tokens)


def gradient_operations(spec, rows, trajectories=None):
    """Returns how many roundings lie on the longest way to a gradient.

    Forward, backward with two products for each, and a sum over the rows' tokens.
    """
    tokens = rows * spec.agent.trajectories * spec.steps * spec.layout().tokens_per_step
    return 3 * forward_operations(spec, trajectories) + tokens
