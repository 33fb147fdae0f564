"""Whatever a model was trained with, its agent acts, and as the trained model says.

Settings are drawn by covering: for every two of them, every pair of their values is trained and
evaluated together. New choices of a setting, and new files under conf/model, are tested unasked.
"""

import dataclasses
import itertools
from functools import lru_cache

import jax
import numpy as np
import pandas as pd
import pytest
from flax import nnx
from jax.sharding import Mesh

from agentic_transformer.agents.load import build_agent
from agentic_transformer.config import (
    AgentConfig,
    DataConfig,
    EvalConfig,
    EvaluateCommand,
    ExportCommand,
    MeshConfig,
    ModelConfig,
    TrainCommand,
    TrainConfig,
)
from agentic_transformer.contexts.chain_tokens import encode_chains
from agentic_transformer.contexts.chains import Chains
from agentic_transformer.contexts.loader import ChainLoader
from agentic_transformer.evaluation.conditions import evaluation_tasks
from agentic_transformer.evaluation.rollouts import Evaluation
from agentic_transformer.training import sharding
from agentic_transformer.training.checkpoint import Checkpoints
from agentic_transformer.training.state import init_state, make_optimizer
from agentic_transformer.training.step import make_train_step
from datasets import Trajectories
from experiments import export, train
from experiments.cli import run_folder
from experiments.cli.packages import CONF
from experiments.evaluate import evaluate
from tests.cli.test_configs import composed
from tests.seeds import SEED
from tests.small_agents import TASK, describe, forward_operations, labelled, untrained_agent
from tests.tolerances import rounding

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("less_optimized")]

FILES = sorted(path.stem for path in (CONF / "model").glob("*.yaml"))
SMALL = {"width": 16, "layers": 2, "heads": 2}
ATTEMPTS, ROLLOUTS = 2, 4
EVAL = EvalConfig(trajectories=[ATTEMPTS], tasks=ROLLOUTS, temperature=0.0, noise=0.0, video=False)

KERNEL_PLATFORMS = {"cudnn": "gpu", "splash": "tpu"}


def values(field):
    """All values of a setting that is a choice; none of one that is a size."""
    choices = field.metadata.get("choices") or (
        (False, True) if field.type in ("bool", bool) else ()
    )
    here = jax.default_backend()
    return tuple(value for value in choices if KERNEL_PLATFORMS.get(value, here) == here)


(WEIGHTINGS,) = (
    field.metadata["choices"]
    for field in dataclasses.fields(AgentConfig)
    if field.name == "weighting"
)
FACTORS = {
    "weighting": WEIGHTINGS,
    **{field.name: values(field) for field in dataclasses.fields(ModelConfig) if values(field)},
    "fsdp": (False, True),
    "accumulate": (1, 2),
    "ring": (1, 2),
    "acting_ring": (1, 2),
}


def covering(factors):
    """Few rows that hold every pair of values of every two factors, drawn greedily."""

    def pairs(row):
        return set(itertools.combinations(row.items(), 2))

    every_two = itertools.combinations(factors, 2)
    left = {((a, x), (b, y)) for a, b in every_two for x in factors[a] for y in factors[b]}
    rng, rows = np.random.default_rng(1), []
    while left:
        drawn = [
            {key: each[rng.integers(len(each))] for key, each in factors.items()}
            for _ in range(300)
        ]
        rows.append(max(drawn, key=lambda row: len(pairs(row) & left)))
        left -= pairs(rows[-1])
    return rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("every_setting")


@pytest.fixture(scope="module")
def data(folder):
    return labelled(folder / "data")


def trained(data, spec, ring, fsdp, accumulate):
    """The structure and the state of an agent after two steps on a ring."""
    mesh = Mesh(np.array(jax.devices()[:ring]).reshape(1, ring), (sharding.DATA, sharding.RING))
    config, agent = TrainConfig(batch=4, warmup=0), spec.agent
    loader = ChainLoader(data, agent, spec.layout(), SEED, config.batch)
    optimizer, _ = make_optimizer(config)
    graph, state = init_state(lambda: spec.build(SEED), optimizer, mesh, fsdp)
    length = agent.trajectories * spec.steps * spec.layout().tokens_per_step
    step = make_train_step(graph, optimizer, spec, mesh, length, accumulate, fsdp)
    for number in range(2):
        state, metrics = step(state, sharding.shard_batch(loader(number), mesh, spec.model.layout))
    assert np.isfinite(float(metrics["loss"]))
    return state


def ring_of(size):
    """A mesh of so many devices; None of one."""
    if size == 1:
        return None
    return Mesh(np.array(jax.devices()[:size]).reshape(1, size), (sharding.DATA, sharding.RING))


def rollouts(agent):
    """Returns what an agent did, and its records.

    The first are observations, actions, rewards and targets, each (rollouts, attempts, ...).
    """
    evaluation = Evaluation(agent, evaluation_tasks(TASK, EVAL, 0), EVAL)
    attempts = list(evaluation.attempts("own"))
    done = (
        np.stack(parts, axis=1)
        for parts in zip(*(attempt.trajectory[:4] for attempt in attempts), strict=True)
    )
    return *done, pd.concat(evaluation.records("own", attempt) for attempt in attempts)


def uncached(spec, params, observation, action, reward, target):
    """Returns the outputs of the trained model, in float32, at the tokens that predict actions."""
    slots = np.zeros((ROLLOUTS, ATTEMPTS), np.int32)
    chains = Chains(slots, slots, slots, target, slots)
    *done, reward = (x.reshape(-1, *x.shape[2:]) for x in (observation, action, reward))
    layout = spec.layout()
    tokens = encode_chains(layout, chains, Trajectories(*done), reward)
    model = dataclasses.replace(spec.model, dtype="float32")
    graph = nnx.graphdef(dataclasses.replace(spec, model=model).build(0))

    def attend(_, query, key, value):
        return jax.nn.dot_product_attention(query, key, value, is_causal=True)

    outputs = nnx.merge(graph, jax.tree.map(np.asarray, params))(
        tokens.features, tokens.timestep, attend
    )
    return np.asarray(outputs)[:, layout.action_token :: layout.tokens_per_step]


def distance(config, outputs, action, tolerance):
    """Returns the largest distance of actions (..., A) from those that the outputs ask for.

    Where several components are equally likely, the nearest of them counts.
    """
    if config.head == "mse":
        return np.abs(action - np.clip(outputs, -1, 1)).max()
    logits, rest = np.split(outputs, [config.components], axis=-1)
    means = np.clip(rest.reshape(*logits.shape, -1)[..., : action.shape[-1]], -1, 1)
    away = np.abs(action[..., None, :] - means).max(axis=-1)
    likeliest = logits >= logits.max(axis=-1, keepdims=True) - 2 * tolerance
    return np.where(likeliest, away, np.inf).min(axis=-1).max()


@pytest.mark.parametrize(
    "setting", covering(FACTORS), ids=lambda row: "-".join(map(str, row.values()))
)
def test_an_agent_acts_as_the_model_that_was_trained(data, tmp_path, setting):
    """Every action of an evaluation is that of one pass without a cache over all that happened."""
    where = {key: setting[key] for key in ("ring", "fsdp", "accumulate")}
    model = ModelConfig(
        **SMALL, **{key: value for key, value in setting.items() if hasattr(ModelConfig, key)}
    )
    agent = AgentConfig(trajectories=ATTEMPTS, target="chain_max", loss="all")
    if setting["weighting"] != "none":  # a value must not see the target
        agent = dataclasses.replace(
            agent, weighting=setting["weighting"], return_conditioning="none"
        )
    spec = describe(data, agent, model)
    state = trained(data, spec, **where)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state, spec.to_dict(), loss=1.0)
    checkpoints.wait()
    *done, records = rollouts(build_agent(checkpoints, 2, ring_of(setting["acting_ring"])))
    checkpoints.close()
    assert len(records) == ATTEMPTS * ROLLOUTS and np.isfinite(records["return"]).all()
    outputs, action = (
        uncached(spec, state.params, *done),
        done[1].reshape(ROLLOUTS, -1, spec.action_size),
    )
    # Both passes round as often on the way to an output, the one with the cache and the one
    # without.
    tolerance = 2 * rounding(forward_operations(spec)) * np.abs(outputs).max()
    assert distance(model, outputs, action, tolerance) <= tolerance
    # Outputs of another step are far beyond it.
    assert distance(model, np.roll(outputs, 1, axis=1), action, tolerance) > 100 * tolerance


@lru_cache
def run_of(folder, model, ring, learner="transformer"):
    """Returns a run and its records: two steps of training, evaluated on the other kind of ring."""
    run = folder / f"{learner}-{hash(model)}-{ring}"
    command = TrainCommand(
        run=str(run),
        data=DataConfig(root=str(folder / "data"), episodes=40, tasks=3),
        agent=AgentConfig(trajectories=ATTEMPTS, learner=learner),
        model=model,
        train=TrainConfig(steps=2, batch=8, warmup=0),
        mesh=MeshConfig(ring=ring),
    )
    facts = run_folder.collect_provenance(command, [])
    run_folder.write_description(run, command, [], facts)
    train.main(command, run)
    return run, evaluated(run, 3 - ring)


def evaluated(run, ring):
    """Records of a run."""
    config = EvalConfig(trajectories=[ATTEMPTS], tasks=8, conditions=["own"], video=False)
    place = evaluate(EvaluateCommand(run=str(run), eval=config, mesh=MeshConfig(ring=ring)), run)
    return pd.read_csv(place / "records.csv")


def in_small(file):
    """The settings of a file under conf/model, but for its sizes."""
    model = composed("train", f"model={file}").model
    return dataclasses.replace(
        model, **{name: min(size, getattr(model, name)) for name, size in SMALL.items()}
    )


@pytest.mark.parametrize(("file", "ring"), list(zip(FILES, itertools.cycle([2, 1]))))
def test_every_model_of_conf_is_trained_and_evaluated(data, folder, file, ring):
    """By turns on a ring, to act on one device, and the other way round.

    Files that differ in sizes alone share a run.
    """
    _, records = run_of(folder, in_small(file), ring)
    assert len(records) == ATTEMPTS * 8 and np.isfinite(records["return"]).all()


@pytest.mark.parametrize(("file", "ring"), [("at_350m", 2), ("paper", 1)])
def test_an_exported_run_acts_as_it_did(data, folder, tmp_path, file, ring):
    run, records = run_of(folder, in_small(file), ring)
    export.main(ExportCommand(run=str(run), out=str(tmp_path / "copy")), run)
    pd.testing.assert_frame_equal(evaluated(tmp_path / "copy", 3 - ring), records)


def test_a_learner_without_a_transformer_takes_any_model_settings(data, folder):
    _, records = run_of(folder, in_small("at_350m"), 1, "td3_bc")
    assert set(records["condition"]) == {"td3_bc"} and np.isfinite(records["return"]).all()


def test_an_agent_of_a_training_graph_is_refused_in_words(data):
    with pytest.raises(
        ValueError,
        match="model.scan_layers=True, model.remat=dots: for training alone; .*Agent.from_trained",
    ):
        untrained_agent(describe(data, model=ModelConfig(**SMALL, scan_layers=True, remat="dots")))
