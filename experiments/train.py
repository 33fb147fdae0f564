"""Trains an agent: `python -m experiments.train experiment=quickstart`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from agentic_transformer.config import TrainCommand
from experiments.cli import app as cli

if TYPE_CHECKING:
    from agentic_transformer.contexts.relabelled import RelabelledDataset
    from agentic_transformer.models.spec import AgentSpec
    from agentic_transformer.training.step import TrainState, TrainStep


class Learner(NamedTuple):
    """What the training loop needs of an agent, whatever it learns by."""

    state: TrainState
    step: TrainStep
    batch: Callable[[int], Any]
    """What a step learns from, placed on the devices."""
    learning_rate: Callable[[int], Any]
    """By step."""


def main(config: TrainCommand, run: Path) -> None:
    """Data -> chains -> tokens -> sharded steps -> checkpoints and metrics in the run's folder."""
    from tqdm import tqdm

    from agentic_transformer.models.spec import AgentSpec
    from agentic_transformer.training import distributed
    from agentic_transformer.training.checkpoint import Checkpoints, check_place
    from agentic_transformer.training.loop import fit, prefetch, profiled
    from agentic_transformer.training.metrics import MetricsLog
    from experiments.cli import run_folder
    from experiments.cli.data import training_data
    from experiments.cli.preemption import Preemption

    distributed.initialize(config.mesh)
    check_processes_agree(config)
    check_place(run)
    with distributed.first_process_first():
        data = training_data(config.task, config.data)
    if distributed.is_first():
        run_folder.note(run, episodes=data.store.episodes)
    description = AgentSpec(
        task=config.task,
        seed=config.seed,
        agent=config.agent,
        model=config.model,
        scaling=data.scaling(config.agent.reward_scale),
        observation_size=data.store.observation_size,
        action_size=data.store.action_size,
        steps=int(data.store.lengths[0]),
        best_return=float(data.returns.max()),
        action_repeat=config.data.action_repeat,
        td3_bc=config.td3_bc,
    )
    checkpoints = Checkpoints(run, config.train.keep, config.train.keep_best)
    newest = checkpoints.open()
    make = {"transformer": _transformer, "td3_bc": _td3_bc}[config.agent.learner]
    learner = make(config, data, description, fresh=newest is None)
    state = (
        learner.state if newest is None else checkpoints.state(newest, learner.state, description)
    )
    start = int(state.step)
    if distributed.is_first() and newest is not None:
        print(f"goes on from checkpoint {start}", flush=True)
    elif distributed.is_first() and config.resume:
        print(f"resume=true: no checkpoint in {checkpoints.folder}; starts at step 0", flush=True)
    train_step = profiled(learner.step, start, config.train.profile, run / "profile")
    batches = prefetch(learner.batch, start, config.train.steps)
    bar = tqdm(
        batches,
        f"train {config.agent.name}",
        config.train.steps,
        initial=start,
        disable=not distributed.is_first(),
    )
    with (
        Preemption() as preemption,
        MetricsLog(run, start) if distributed.is_first() else nullcontext() as log,
        bar,
    ):

        def report(step: int, metrics: dict[str, float]) -> None:
            if log:
                log.write(step, {**metrics, "learning_rate": float(learner.learning_rate(step))})
            bar.set_postfix(loss=f"{metrics['loss']:.3f}", refresh=False)

        def save(state: TrainState, loss: float) -> None:
            checkpoints.save(state, description, loss)

        fit(state, train_step, bar, config.train, report, save, preemption.agreed)
        checkpoints.close()


def _transformer(
    config: TrainCommand, data: RelabelledDataset, description: AgentSpec, fresh: bool
) -> Learner:
    """The agent, on the mesh; of its state an outline is enough where a checkpoint is loaded."""
    import jax

    from agentic_transformer.contexts.relabelled import ChainLoader
    from agentic_transformer.training import sharding
    from agentic_transformer.training.step import (
        abstract_state,
        init_state,
        make_optimizer,
        make_train_step,
    )

    mesh, layout = sharding.make_mesh(config.mesh.ring), description.layout()
    rows = sharding.local_rows(mesh, config.train.batch, config.train.grad_accum_steps)
    loader = ChainLoader(data, config.agent, layout, config.seed, config.train.batch, rows)
    optimizer, schedule = make_optimizer(config.train)
    if fresh:
        graph, state = init_state(
            lambda: description.build(config.seed), optimizer, mesh, config.mesh.fsdp
        )
    else:
        graph, state = abstract_state(
            lambda: description.build(config.seed), optimizer, mesh, config.mesh.fsdp
        )
    length = config.agent.trajectories * description.steps * layout.tokens_per_step
    cut = config.train.grad_accum_steps, config.mesh.fsdp, config.agent.trajectories
    step = make_train_step(graph, optimizer, config.model, mesh, length, *cut)
    return Learner(
        state,
        step,
        lambda number: sharding.shard_batch(loader(number), mesh, config.model.layout),
        jax.jit(schedule),
    )


def _td3_bc(
    config: TrainCommand, data: RelabelledDataset, description: AgentSpec, fresh: bool
) -> Learner:
    """The temporal-difference reference, on one device."""
    from agentic_transformer.agents import td3_bc

    networks, params = td3_bc.init(description, config.seed)
    loader = td3_bc.TransitionLoader(data, description, config.td3_bc.batch, config.seed)
    step = td3_bc.make_step(networks, config.td3_bc, config.seed)
    return Learner(
        td3_bc.init_state(params, config.td3_bc),
        step,
        loader,
        lambda _: config.td3_bc.learning_rate,
    )


def check_processes_agree(config: TrainCommand) -> None:
    """Raises a SettingError unless all processes of a run were started with the same settings,
    their own numbers aside.
    """
    from agentic_transformer.errors import raise_config_error as reject
    from agentic_transformer.settings import format_value as shown
    from agentic_transformer.settings import settings_of as settings
    from agentic_transformer.settings import value_at
    from agentic_transformer.training import distributed

    own = ("mesh.process", "mesh.coordinator")
    values = {key: shown(value_at(config, key)) for key in settings(TrainCommand) if key not in own}
    if different := distributed.differing(values):
        said = ", ".join(f"{key}={values[key]}" for key in different)
        reject(
            f"{said} in process {distributed.process_info(config.mesh)[0]}, not so in every process of the run",
            "the same settings in all of them",
        )


if __name__ == "__main__":
    cli.run(main, TrainCommand)
