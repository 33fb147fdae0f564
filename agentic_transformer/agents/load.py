"""Builds agents from checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from agentic_transformer.agents.base import Agent
from agentic_transformer.config import EvalConfig, TrainCommand
from agentic_transformer.errors import UserError, raise_config_error
from agentic_transformer.find_run import find_run
from agentic_transformer.learners import acting_class, is_in_context
from agentic_transformer.models.spec import AgentSpec
from agentic_transformer.run_files import CONFIG, LAST_KEY, read_settings
from agentic_transformer.settings import format_value, settings_of
from agentic_transformer.training.checkpoint_reader import CheckpointReader
from agentic_transformer.training.computation import describe_computation

_ACTING = ("seed", "target", "temperature", "noise", "window")


def load(run: Path | str, checkpoint: str | int = "newest", mesh: Mesh | None = None) -> Agent:
    """Loads the agent of a trained run.

    Args:
        run: the run's folder, or the name of a committed agent, such as "maze".
        checkpoint: "newest", "best" (by its loss; agents of single transitions have
            none), or a step.
        mesh: devices over which the agent's caches are sharded; None: one device.

    Raises:
        ValueError: there is no such run or checkpoint, it is not one of this version, or its
            learner is not there.
    """
    folder = find_run(run)
    checkpoints = CheckpointReader(folder)
    agent = build_agent(checkpoints, checkpoints.find(str(checkpoint)), mesh)
    agent.acting = read_acting(folder)
    return agent


def build_agent(checkpoints: CheckpointReader, step: int, mesh: Mesh | None = None) -> Agent:
    """Builds the agent of one checkpoint.

    Args:
        checkpoints: checkpoints of the run.
        step: which of them.
        mesh: devices over which the agent's caches are sharded; None: one device.

    Raises:
        ValueError: the checkpoint is not one of this version, its arrays are not the agent's, or
            its learner is not there.
    """
    spec = read_spec(checkpoints, step)
    params = jax.eval_shape(lambda: acting_class(spec.agent.learner).init_params(spec))
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), params)
    return make_agent(spec, checkpoints.params(step, like), mesh)


def make_agent(spec: AgentSpec, params: Any, mesh: Mesh | None = None) -> Agent:
    """Returns the agent of a spec and its parameters.

    Args:
        spec: the agent.
        params: its parameters, as training keeps them.
        mesh: devices over which the agent's caches are sharded; None: one device.

    Raises:
        ValueError: its learner is not there.
    """
    return acting_class(spec.agent.learner).from_trained(params, spec, mesh)


def describe_acting(config: TrainCommand, ring: int) -> dict[str, str]:
    """Returns how the agent of a run acts, see `agentic_transformer.training.computation`.

    Args:
        config: settings of the run.
        ring: devices over which the caches of a batch row are sharded; 1: one device acts.
    """
    devices = jax.devices() if ring > 1 else jax.local_devices()[:1]
    facts = describe_computation(config.model.precision, devices)
    if is_in_context(config.agent.learner):
        facts |= {"attention": "to the key/value cache", "kernel": "none, plain JAX"}
    return facts


def read_spec(checkpoints: CheckpointReader, step: int) -> AgentSpec:
    """Returns the spec of a checkpoint's agent.

    Raises:
        ValueError: it is not one of this version.
    """
    try:
        return AgentSpec.from_dict(checkpoints.spec(step))
    except ValueError as error:
        raise ValueError(f"{checkpoints.path(step)}: {error}") from error


def read_acting(run: Path) -> EvalConfig:
    """Returns how a run's evaluation acts: its seed, target, temperature, noise and window.

    Settings that the folder does not hold have their defaults.

    Raises:
        UserError: the settings cannot be read, or were cut short.
    """
    path = run / CONFIG
    if not path.exists():
        return EvalConfig()
    there = read_settings(run, LAST_KEY).get("eval", {})
    if not isinstance(there, dict):
        raise_config_error(f"{path} does not hold settings: eval is no group of them")
    values = {key: there[key] for key in _ACTING if key in there}
    for key, value in values.items():
        setting = settings_of(EvalConfig)[key]
        try:
            setting.check(value)
        except UserError:
            raise_config_error(f"{path}: eval.{key}={format_value(value)}", setting.allowed)
    return EvalConfig(**values)
