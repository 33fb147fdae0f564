"""Checks of a command's settings beside each other, before jax or MuJoCo is imported.

Each check raises a UserError. Ranges and choices of single settings stand in
`agentic_transformer.config`.
"""

from __future__ import annotations

import difflib
import importlib.util
import re
from pathlib import Path
from typing import Any

import envs
from agentic_transformer.capacity import estimate_settings, hardware
from agentic_transformer.config import (
    AgentConfig,
    DataConfig,
    EvalConfig,
    MeshConfig,
    ModelConfig,
    PlanCommand,
    TrainCommand,
    TrainConfig,
)
from agentic_transformer.errors import listing, nearest, raise_config_error
from agentic_transformer.settings import format_value, format_values, settings_of, value_at
from agentic_transformer.training import distributed


def check_command(command: Any) -> None:
    """Raises a UserError if a value of a command's dataclass is wrong, alone or beside others."""
    for key, setting in settings_of(type(command)).items():
        setting.check(value_at(command, key))
    if hasattr(command, "task"):
        check_task(command.task)
        check_horizon(command.task, command.data)
    if hasattr(command, "task") and hasattr(command, "eval"):
        check_held_out(command.task, command.eval)
    if hasattr(command, "topology"):
        check_plan(command)
    if hasattr(command, "checkpoint"):
        check_checkpoint(command.checkpoint)
    if hasattr(command, "mesh"):
        check_processes(command.mesh)
        check_ring(command.mesh)
    if hasattr(command, "model"):
        check_heads(command.model)
    if hasattr(command, "train"):
        check_batch(command.train, command.mesh)
        check_agent("agent", command.agent, command)
        check_logger(command.logger)
    if hasattr(command, "baseline"):
        check_agent("baseline", command.baseline, command)
        check_baseline(command)


def check_task(name: str) -> None:
    """Raises a UserError if there is no task of this name, or of this id."""
    names = envs.tasks()
    if "(" in name:
        try:
            envs.task(name)
        except ValueError as error:
            raise_config_error(str(error))
    elif name not in names:
        close = difflib.get_close_matches(name, names, n=5, cutoff=0.4)
        raise_config_error(
            f"task={name}: no such task",
            f"{len(names)} names in envs.tasks(), such as {listing(close or names[:5])}",
            next(iter(close), None),
        )


def check_held_out(task: str, config: EvalConfig) -> None:
    """Raises a UserError if tasks beyond those of training are asked for, and there are none."""
    families = [name for name in envs.families() if envs.registry.has_parameters(envs.task(name))]
    if config.held_out == "beyond" and task not in families:
        raise_config_error(
            f"eval.held_out=beyond: nothing lies beyond task={task}, which has no parameters",
            f"eval.held_out=between, or a task such as {listing(families)}",
        )


def check_horizon(task: str, data: DataConfig) -> None:
    """Raises a UserError if an episode of the task has fewer steps than asked for."""
    length = envs.spec(task).length
    if data.length is not None and data.length > length:
        raise_config_error(f"data.length={data.length}", f"at most {length} for {task}")
    collected = data.length or length
    if data.action_repeat * (data.horizon or 1) > collected:
        asked = f"data.action_repeat={data.action_repeat} with data.horizon="
        raise_config_error(
            asked + format_value(data.horizon),
            f"a product of at most {collected}, the steps of an episode of {task}",
        )


def check_plan(command: PlanCommand) -> None:
    """Raises a UserError if what is asked for cannot be planned.

    The machine has to exist, its devices to form such rings, and the model to be one that is
    estimated or can be compiled.
    """
    try:
        topology = hardware.topology(command.topology)
    except ValueError as error:
        allowed, close = str(error).split("\n")
        raise_config_error(f"topology={command.topology}: no such topology", allowed, close)
    model, ring, devices = command.model, command.ring or 1, topology.devices
    if model.attention not in estimate_settings.BACKBONES:
        raise_config_error(
            f"model.attention={model.attention}: not planned for",
            listing(estimate_settings.BACKBONES),
        )
    if ring > 1 and model.attention != "ring":
        raise_config_error(
            f"ring={ring} with model.attention={model.attention}, of which each device takes "
            "whole sequences",
            "ring=1, or model.attention=ring",
        )
    if devices % ring:
        raise_config_error(
            f"ring={ring} does not divide the {devices} devices of {command.topology}",
            _divisors(devices),
        )
    assumed = estimate_settings.assumed_settings(model)
    if assumed and command.compile == "nothing":
        asked = format_values({name: getattr(model, name) for name in assumed}, "model.")
        raise_config_error(
            f"{asked}: not estimated, and nothing is compiled",
            f"{format_values(assumed, 'model.')}, or compile=memory",
        )


def check_processes(mesh: MeshConfig) -> None:
    """Raises a UserError if the settings of several processes do not fit each other."""
    if mesh.process >= mesh.processes:
        raise_config_error(
            f"mesh.process={mesh.process} of mesh.processes={mesh.processes}",
            f"0 to {mesh.processes - 1}",
        )
    if (mesh.processes > 1) != (mesh.coordinator is not None):
        raise_config_error(
            f"mesh.processes={mesh.processes} with "
            f"mesh.coordinator={format_value(mesh.coordinator)}",
            "both, or neither of them",
        )


def check_checkpoint(which: str) -> None:
    """Raises a UserError unless this may name a checkpoint."""
    words = ("newest", "best")
    if which not in words and not which.isdecimal():
        raise_config_error(
            f"checkpoint={which}: unknown", f"{listing(words)}, or a step", nearest(which, words)
        )


def check_ring(mesh: MeshConfig) -> None:
    """Raises a UserError unless rings divide the virtual devices of all processes."""
    processes = distributed.process_info(mesh)[1]
    devices = mesh.virtual_devices * processes
    if devices % mesh.ring:
        times = f" in each of {processes} processes" if processes > 1 else ""
        raise_config_error(
            f"mesh.ring={mesh.ring} does not divide mesh.virtual_devices={mesh.virtual_devices}"
            + times,
            _divisors(devices),
        )


def check_heads(model: ModelConfig) -> None:
    """Raises a UserError unless the heads divide the width."""
    if model.width % model.heads:
        raise_config_error(
            f"model.heads={model.heads} does not divide model.width={model.width}",
            "a width that is a multiple",
        )


def check_batch(train: TrainConfig, mesh: MeshConfig) -> None:
    """Raises a UserError unless a batch can be cut over virtual devices and micro-batches."""
    data = mesh.virtual_devices * distributed.process_info(mesh)[1] // mesh.ring
    if data and train.batch % data:
        raise_config_error(
            f"train.batch={train.batch} does not divide over the {data} devices of the data axis",
            f"a multiple of {data} (mesh.virtual_devices / mesh.ring)",
        )
    if train.batch % train.grad_accum_steps:
        raise_config_error(
            f"train.grad_accum_steps={train.grad_accum_steps} does not divide "
            f"train.batch={train.batch}",
            "a divisor of the batch",
        )


def check_agent(group: str, agent: AgentConfig, command: TrainCommand) -> None:
    """Raises a UserError if an agent's settings do not fit the others.

    Args:
        group: "agent", or "baseline" of the quickstart.
        agent: its settings.
        command: all settings.
    """
    if not re.fullmatch(r"\w[\w.-]*", agent.name):
        raise_config_error(
            f"{group}.name={agent.name}: names a folder",
            "letters, digits, _ - and . behind the first",
        )
    if agent.learner != "transformer" and distributed.process_info(command.mesh)[1] > 1:
        raise_config_error(
            f"{group}.learner={agent.learner} in several processes",
            "one: a single device trains it",
        )
    if agent.learner != "transformer" and agent.imitate != "taken":
        raise_config_error(
            f"{group}.imitate={agent.imitate} with {group}.learner={agent.learner}",
            f"{group}.imitate=taken: values are those of the actions that were taken",
        )
    available = max(1, round(agent.top * command.data.episodes))
    if agent.trajectories > available:
        top = f" with {group}.top={agent.top}" if agent.top < 1 else ""
        raise_config_error(
            f"{group}.trajectories={agent.trajectories} distinct trajectories of "
            f"data.episodes={command.data.episodes}{top}",
            f"at most {available}",
        )


def check_init(command: TrainCommand) -> None:
    """Raises a UserError if there is no run to start from; a resumed run has started already."""
    if command.init is None or command.resume:
        return
    if not (Path(command.init) / "checkpoints").is_dir():
        raise_config_error(
            f"init={command.init}: no checkpoints are there", "a run folder of experiments.train"
        )


def check_logger(logger: str) -> None:
    """Raises a UserError if the package that a logger needs is not installed."""
    if logger == "wandb" and importlib.util.find_spec("wandb") is None:
        raise_config_error(
            "logger=wandb: the package wandb is not installed",
            "logger=tensorboard, or after: make install EXTRAS=wandb",
        )


def check_baseline(command: Any) -> None:
    """Raises a UserError unless the quickstart's baseline has a name and a batch of its own."""
    baseline, seen = command.baseline, command.train.batch * command.agent.trajectories
    if command.init is not None:
        raise_config_error(
            f"init={command.init}: the quickstart trains two agents of different shapes",
            "init= of experiments.train",
        )
    if baseline.name == command.agent.name:
        raise_config_error(
            f"baseline.name={baseline.name} is the agent's name too",
            "another agent, such as agent@baseline=dt",
        )
    if seen % baseline.trajectories:
        raise_config_error(
            f"baseline.trajectories={baseline.trajectories} does not divide train.batch * "
            f"agent.trajectories = {seen}",
            "a divisor: both see as many trajectories a step",
        )


def _divisors(number: int) -> str:
    return ", ".join(str(size) for size in range(1, number + 1) if number % size == 0)
