"""Checks the settings of a command together, before jax or MuJoCo is imported.

Each check raises a UserError. Ranges and choices of single settings stand in
`agentic_transformer.config`.
"""

from __future__ import annotations

import difflib
import importlib.util
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import envs
from agentic_transformer.capacity import estimate_settings, hardware
from agentic_transformer.config import (
    ANOTHER_TASK,
    AgentConfig,
    CollectCommand,
    DataConfig,
    EvalConfig,
    EvaluateCommand,
    MeshConfig,
    ModelConfig,
    PlanCommand,
    QuickstartCommand,
    TrainCommand,
    TrainConfig,
)
from agentic_transformer.contexts.chains import available_episodes
from agentic_transformer.errors import listing, nearest, raise_config_error
from agentic_transformer.learners import LEARNERS, check_learner, is_in_context
from agentic_transformer.online.checks import check_rounds
from agentic_transformer.run_files import CHECKPOINTS
from agentic_transformer.settings import (
    format_value,
    format_values,
    lies_in,
    settings_of,
    value_at,
)
from agentic_transformer.training import distributed
from envs.gymnasium_tasks import is_gymnasium
from envs.registry import families_with_parameters, has_parameters, pays_itself

WITHOUT_CONTEXT = ("dt", "bc", "bc10", "bc_told")
"""Names of baselines in figures, so agents of these names may have no context."""

_LAST_PORT = 65535


def check_command(command: Any) -> None:
    """Raises a UserError if a value of a command's dataclass is wrong, or does not fit others."""
    for key, setting in settings_of(type(command)).items():
        setting.check(value_at(command, key))
    task = getattr(command, "task", None)  # None in an evaluation: the task of the run
    if task is not None:
        check_task(task)
        check_environment(task)
        if isinstance(command.data, DataConfig):
            _check_horizon(task, command.data)
        if hasattr(command, "eval"):
            check_held_out(task, command.eval)
    if getattr(command, "domain", None) is not None:
        _check_domain(command.domain)
    if hasattr(command, "eval"):
        _check_window(command.eval)
        if task is not None:
            _check_conditions(task, command.eval)
    if isinstance(command, CollectCommand) and command.data.algo == "td3":
        data = command.data
        check_rounds(task, data.episodes, command.td3.episodes, data.length, data.action_repeat)
    if isinstance(command, PlanCommand):
        _check_plan(command)
    if isinstance(command, EvaluateCommand):
        _check_checkpoint(command.checkpoint)
    if hasattr(command, "mesh"):
        _check_processes(command.mesh)
        _check_ring(command.mesh)
    if hasattr(command, "model"):
        _check_heads(command.model)
    if hasattr(command, "train"):
        _check_relabel(command.task, command.data)
        _check_batch(command.train, command.mesh)
        _check_agent("agent", command.agent, command)
        _check_logger(command.logger)
    if isinstance(command, QuickstartCommand):
        _check_agent("baseline", command.baseline, command)
        _check_baseline(command)


def check_given(command: Any, given: Iterable[str]) -> None:
    """Raises a UserError if a setting that a command line gives does nothing.

    Files under conf/ may hold such settings, as one file serves several commands.

    Args:
        command: the settings.
        given: keys that the command line gives, such as `data.tasks`.
    """
    for key in given:
        if isinstance(command, CollectCommand):
            _check_given_to_collect(command, key)
        elif key == "data.length" and type(command) is TrainCommand and command.data.length:
            raise_config_error(
                f"data.length={command.data.length}: is for collecting, and training uses all "
                "steps of the episodes that are there",
                "data.horizon=<steps> for their first steps, each of data.action_repeat",
            )
        elif key == "data.tasks" and not has_parameters(envs.task(command.task)):
            raise_config_error(
                f"data.tasks={command.data.tasks} with task={command.task}, which has no hidden "
                "parameters to draw",
                f"a task such as {listing(families_with_parameters())}, or no data.tasks",
            )


def _check_given_to_collect(command: CollectCommand, key: str) -> None:
    """Raises a UserError if collecting does not use a setting that is given."""
    if key in ("data.horizon", "data.relabel", "data.tasks") and value_at(command, key):
        shorter = "data.length=<steps> for shorter episodes; " if key == "data.horizon" else ""
        raise_config_error(
            f"{key}={value_at(command, key)}: is for training; episodes are collected whole, with "
            "the rewards of their own task",
            f"{shorter}{key} in experiments.train",
        )
    if lies_in(key, "td3") and command.data.algo != "td3":
        raise_config_error(
            f"{key}={format_value(value_at(command, key))} with data.algo={command.data.algo}",
            f"data.algo=td3, or no {key}",
        )


def check_task(name: str) -> None:
    """Raises a UserError if there is no task of this name, or of this id."""
    names = envs.tasks()
    if "(" in name:
        try:
            envs.task(name)
        except ValueError as error:
            raise_config_error(str(error))
    elif name not in names and not is_gymnasium(name):
        close = difflib.get_close_matches(name, names, n=5, cutoff=0.4)
        raise_config_error(
            f"task={name}: no such task",
            f"{len(names)} names in envs.tasks(), such as {listing(close or names[:5])}; "
            "gymnasium:<id>",
            f"gymnasium:{name}" if re.search(r"-v\d+$", name) else nearest(name, names),
        )


def _check_domain(name: str) -> None:
    """Raises a UserError if there is no domain of this name."""
    known = envs.registry.domains()
    if name not in known and not is_gymnasium(name):
        raise_config_error(
            f"domain={name}: no such domain",
            f"{listing(known)}; gymnasium:<id>",
            nearest(name, known),
        )
    check_environment(name)


def check_environment(task: str) -> None:
    """Raises a UserError if an environment of gymnasium cannot be used."""
    if is_gymnasium(task):
        try:
            envs.spec(task)
        except ValueError as error:
            raise_config_error(*str(error).split("; allowed: "))


def _check_relabel(task: str, data: DataConfig) -> None:
    """Raises a UserError if `data.relabel` does not fit the task."""
    if data.relabel == "stored" and envs.task(task).hidden:
        raise_config_error(
            f"data.relabel=stored with task={task}: the rewards in an episode are of one task",
            "a task that is not hidden, or data.relabel=exorl or exact",
        )
    if data.relabel == "exact" and pays_itself(envs.task(task)):
        raise_config_error(
            f"data.relabel=exact with task={task}, whose rewards are those in the episodes",
            "data.relabel=stored",
        )


def check_held_out(task: str, config: EvalConfig) -> None:
    """Raises a UserError if tasks beyond those of training are asked for, and there are none."""
    families = families_with_parameters()
    if config.held_out == "beyond" and task not in families:
        raise_config_error(
            f"eval.held_out=beyond: nothing lies beyond task={task}, which has no parameters",
            f"eval.held_out=between, or a task such as {listing(families)}",
        )


def _check_window(config: EvalConfig) -> None:
    """Raises a UserError if the window is longer than every context of the evaluation."""
    longest = max(config.trajectories, default=1)
    if config.window is not None and config.window > longest:
        raise_config_error(
            f"eval.window={config.window}: no context is as long, with "
            f"eval.trajectories={format_value(config.trajectories)}",
            f"at most {longest}, or null",
        )


def _check_conditions(task: str, config: EvalConfig) -> None:
    """Raises a UserError if all conditions need another task, and there is none."""
    if not envs.task(task).hidden and set(config.conditions) <= set(ANOTHER_TASK):
        raise_config_error(
            f"eval.conditions={format_value(config.conditions)} with task={task}, which is not "
            "hidden: there is no other task to take a context from",
            "other conditions, such as [own,no_context]",
        )


def _check_told(group: str, agent: AgentConfig, task: str) -> None:
    """Raises a UserError unless an agent that is told the task has parameters to be told."""
    families = families_with_parameters()
    if agent.told and task not in families:
        raise_config_error(
            f"{group}.told=true: task={task} has no hidden parameters",
            f"{group}.told=false, or a task such as {listing(families)}",
        )
    with_context = is_in_context(agent.learner) and (
        agent.trajectories > 1 or agent.return_conditioning != "none"
    )
    if agent.told and with_context:
        raise_config_error(
            f"{group}.told=true with {group}.trajectories={agent.trajectories}, "
            f"{group}.return_conditioning={agent.return_conditioning}",
            f"{group}.trajectories=1 and {group}.return_conditioning=none: the task is known "
            "without a context or a target return",
        )


def _check_horizon(task: str, data: DataConfig) -> None:
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


def _check_plan(command: PlanCommand) -> None:
    """Raises a UserError if what is asked for cannot be planned.

    The machine must be known, the ring must divide its devices, and the kernel must run on them.
    The estimate must know the settings of the model, unless something is compiled.
    """
    topology = hardware.topology(command.topology)
    model, ring, devices = command.model, command.ring or 1, topology.devices
    if model.attention not in estimate_settings.BACKBONES:
        raise_config_error(
            f"model.attention={model.attention}: not planned for",
            listing(estimate_settings.BACKBONES),
        )
    if ring > 1 and model.attention != "ring":
        raise_config_error(
            f"ring={ring} with model.attention={model.attention}, for which each device holds "
            "whole sequences",
            "ring=1, or model.attention=ring",
        )
    if devices % ring:
        raise_config_error(
            f"ring={ring} does not divide the {devices} devices of {command.topology}",
            _divisors(devices),
        )
    fused, platform = estimate_settings.FUSED, topology.platform
    kerneled = model.attention in estimate_settings.KERNELED
    if kerneled and fused.get(model.kernel, platform) != platform:
        raise_config_error(
            f"model.kernel={model.kernel} with topology={command.topology}: that kernel is for "
            f"{fused[model.kernel].upper()}s",
            listing(["auto", *(name for name in fused if fused[name] == platform)]),
        )
    assumed = estimate_settings.assumed_settings(model)
    if assumed and command.compile == "nothing":
        asked = format_values({name: getattr(model, name) for name in assumed}, "model.")
        raise_config_error(
            f"{asked}: not estimated, and nothing is compiled",
            f"{format_values(assumed, 'model.')}, or compile=memory",
        )


def _check_processes(mesh: MeshConfig) -> None:
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
    if mesh.coordinator is not None and not _is_address(mesh.coordinator):
        raise_config_error(
            f"mesh.coordinator={mesh.coordinator}: no address",
            f"<host>:<port> of process 0, such as host0:1234, with a port from 1 to {_LAST_PORT}",
        )


def _is_address(text: str) -> bool:
    """Returns whether a text names a host, perhaps as [<IPv6>], and a port."""
    found = re.fullmatch(r"(?:[\w.-]+|\[[\da-fA-F:.]+\]):([0-9]{1,5})", text)
    return found is not None and 1 <= int(found[1]) <= _LAST_PORT


def _check_checkpoint(which: str) -> None:
    """Raises a UserError unless this may name a checkpoint."""
    words = ("newest", "best")
    if which not in words and not which.isdecimal():
        raise_config_error(
            f"checkpoint={which}: unknown", f"{listing(words)}, or a step", nearest(which, words)
        )


def _check_ring(mesh: MeshConfig) -> None:
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


def _check_heads(model: ModelConfig) -> None:
    """Raises a UserError unless the heads divide the width."""
    if model.width % model.heads:
        raise_config_error(
            f"model.heads={model.heads} does not divide model.width={model.width}",
            "a model.width that is a multiple of model.heads",
        )


def _check_batch(train: TrainConfig, mesh: MeshConfig) -> None:
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


def _check_agent(group: str, agent: AgentConfig, command: TrainCommand) -> None:
    """Raises a UserError if an agent's settings do not fit the others.

    Args:
        group: "agent", or "baseline" of the quickstart.
        agent: its settings.
        command: all settings.
    """
    if not re.fullmatch(r"\w[\w.-]*", agent.name):
        raise_config_error(
            f"{group}.name={agent.name} cannot be the name of a folder",
            "letters, digits and _; after the first also - and .",
        )
    if agent.name in WITHOUT_CONTEXT and agent.trajectories > 1:
        raise_config_error(
            f"{group}.trajectories={agent.trajectories} with {group}.name={agent.name}, a baseline "
            "without a context (an experiment's settings take precedence over those of an agent)",
            f"{group}.trajectories=1",
        )
    check_learner(agent.learner, f"{group}.learner")
    in_context = is_in_context(agent.learner)
    if not in_context and distributed.process_info(command.mesh)[1] > 1:
        raise_config_error(
            f"{group}.learner={agent.learner} in several processes",
            "one: a single device trains it",
        )
    if not in_context and agent.imitate != "taken":
        raise_config_error(
            f"{group}.imitate={agent.imitate} with {group}.learner={agent.learner}",
            f"{group}.imitate=taken: transitions have the actions that were taken",
        )
    # A user's own learner may draw transitions as it likes.
    if agent.learner in LEARNERS and not in_context and agent.top < 1:
        raise_config_error(
            f"{group}.top={agent.top} with {group}.learner={agent.learner}",
            f"{group}.top=1: transitions are drawn from all trajectories",
        )
    _check_told(group, agent, command.task)
    if agent.weighting == "advantage" and not in_context:
        raise_config_error(
            f"{group}.weighting=advantage with {group}.learner={agent.learner}",
            f"{group}.weighting=none: the value is a head of the transformer",
        )
    if agent.weighting == "advantage" and agent.return_conditioning != "none":
        raise_config_error(
            f"{group}.weighting=advantage with {group}.return_conditioning="
            f"{agent.return_conditioning}, which tells the value what the trajectory will earn",
            f"{group}.return_conditioning=none",
        )
    available = available_episodes(command.data.episodes, agent.top)
    if agent.trajectories > available:
        top = f" with {group}.top={agent.top}" if agent.top < 1 else ""
        raise_config_error(
            f"{group}.trajectories={agent.trajectories} distinct trajectories from "
            f"data.episodes={command.data.episodes}{top}",
            f"at most {available}",
        )


def check_init(command: TrainCommand) -> None:
    """Raises a UserError if there is no run to start from; a resumed run has started already."""
    if command.init is None or command.resume:
        return
    if not (Path(command.init) / CHECKPOINTS).is_dir():
        raise_config_error(
            f"init={command.init}: no checkpoints are there", "a run folder of experiments.train"
        )


def _check_logger(logger: str) -> None:
    """Raises a UserError if the package that a logger needs is not installed."""
    if logger == "wandb" and importlib.util.find_spec("wandb") is None:
        raise_config_error(
            "logger=wandb: the package wandb is not installed",
            "logger=tensorboard, or after: make install EXTRAS=wandb",
        )


def _check_baseline(command: QuickstartCommand) -> None:
    """Raises a UserError unless the quickstart can train this baseline beside its agent."""
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
