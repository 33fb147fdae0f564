"""Trains an agent: `python -m experiments.train experiment=quickstart`."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

from agentic_transformer.config import TrainCommand
from experiments import cli


def main(config: TrainCommand, run: Path) -> None:
    """Data -> chains -> tokens -> sharded steps -> checkpoints and metrics in the run's folder."""
    from tqdm import tqdm

    from agentic_transformer import distributed, training
    from agentic_transformer import mesh as meshes
    from agentic_transformer.checkpoint import Checkpoints
    from agentic_transformer.description import AgentDescription
    from agentic_transformer.labels import ChainLoader
    from agentic_transformer.metrics import MetricsLog
    from experiments.data import training_data
    from experiments.preemption import Preemption

    distributed.initialize(config.mesh)
    check_processes_agree(config)
    mesh = meshes.make_mesh(config.mesh.ring)
    rows = meshes.local_rows(mesh, config.train.batch, config.train.accumulate)
    with distributed.first_process_first():
        data = training_data(config.task, config.data)
    store, steps = data.store, int(data.store.lengths[0])
    description = AgentDescription(
        task=config.task,
        seed=config.seed,
        agent=config.agent,
        model=config.model,
        scaling=data.scaling(config.agent.reward_scale),
        observation_size=store.observation_size,
        action_size=store.action_size,
        steps=steps,
        best_return=float(data.returns.max()),
        action_repeat=config.data.action_repeat,
    )
    layout = description.layout()
    loader = ChainLoader(data, config.agent, layout, config.seed, config.train.batch, rows)

    optimizer, schedule = training.make_optimizer(config.train)
    checkpoints = Checkpoints(run, config.train.keep, config.train.keep_best)
    newest = checkpoints.open()
    if newest is None:
        graph, state = training.init_state(description.build(config.seed), optimizer, mesh, config.mesh.fsdp)
    else:
        graph, outline = training.outline_state(lambda: description.build(config.seed), optimizer, mesh, config.mesh.fsdp)
        state = checkpoints.state(newest, outline, description)
    start = int(state.step)

    length = config.agent.trajectories * steps * layout.tokens_per_step
    train_step = training.make_train_step(graph, optimizer, config.model, mesh, length, config.train.accumulate, config.mesh.fsdp)
    train_step = training.traced(train_step, start, config.train.profile, run / "profile")
    batches = training.prefetch(lambda step: meshes.place(loader(step), mesh, config.model.layout), start, config.train.steps)
    bar = tqdm(batches, f"train {config.agent.name}", config.train.steps, initial=start, disable=not distributed.is_first())
    with Preemption() as preemption, MetricsLog(run, start) if distributed.is_first() else nullcontext() as log, bar:

        def report(step: int, metrics: dict[str, float]) -> None:
            if log:
                log.write(step, {**metrics, "learning_rate": float(schedule(step))})
            bar.set_postfix(loss=f"{metrics['loss']:.3f}", refresh=False)

        def save(state: training.TrainState, loss: float) -> None:
            checkpoints.save(state, description, loss)

        training.fit(state, train_step, bar, config.train, report, save, lambda: distributed.any_process(preemption.requested))
        checkpoints.close()


def check_processes_agree(config: TrainCommand) -> None:
    """Raises a SettingError unless all processes of a run were started with the same settings, their own numbers aside."""
    from agentic_transformer import distributed
    from experiments.settings import reject, settings, shown, value_at

    own = ("mesh.process", "mesh.coordinator")
    values = {key: shown(value_at(config, key)) for key in settings(TrainCommand) if key not in own}
    if different := distributed.differing(values):
        said = ", ".join(f"{key}={values[key]}" for key in different)
        reject(
            f"{said} in process {distributed.place(config.mesh)[0]}, not so in every process of the run",
            "the same settings in all of them",
        )


if __name__ == "__main__":
    cli.run(main, TrainCommand)
