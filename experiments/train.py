"""Trains an agent: `python -m experiments.train experiment=quickstart`."""

from __future__ import annotations

from pathlib import Path

from agentic_transformer.config import TrainCommand
from experiments import cli


def main(config: TrainCommand, run: Path) -> None:
    """Data -> chains -> tokens -> sharded steps -> checkpoints and metrics in the run's folder."""
    from tqdm import tqdm

    from agentic_transformer import mesh as meshes
    from agentic_transformer import training
    from agentic_transformer.checkpoint import Checkpoints
    from agentic_transformer.description import AgentDescription
    from agentic_transformer.labels import ChainLoader
    from agentic_transformer.metrics import MetricsLog
    from experiments.data import training_data

    mesh = meshes.make_mesh(config.mesh.ring)
    data = training_data(config.task, config.data)
    store, steps = data.store, int(data.store.lengths[0])
    scaling = data.scaling(config.agent.reward_scale)
    loader = ChainLoader(data, config.agent, scaling, config.seed, config.train.batch)
    description = AgentDescription(
        task=config.task,
        seed=config.seed,
        agent=config.agent,
        model=config.model,
        scaling=scaling,
        observation_size=store.observation_size,
        action_size=store.action_size,
        steps=steps,
        best_return=float(data.returns.max()),
    )

    optimizer, schedule = training.make_optimizer(config.train)
    graph, state = training.init_state(description.build(config.seed), optimizer, mesh)
    train_step = training.make_train_step(graph, optimizer, config.model, mesh, config.agent.trajectories * steps)

    checkpoints = Checkpoints(run)
    if checkpoints.latest_step() is not None:
        state = checkpoints.state(state)
    start = int(state.step)
    batches = training.prefetch(lambda step: meshes.place(loader(step), mesh, config.model.layout), start, config.train.steps)
    with MetricsLog(run, start) as log, tqdm(batches, f"train {config.agent.name}", config.train.steps, initial=start) as bar:

        def report(step: int, metrics: dict[str, float]) -> None:
            log.write(step, {**metrics, "learning_rate": float(schedule(step))})
            bar.set_postfix(loss=f"{metrics['loss']:.3f}", refresh=False)

        training.fit(state, train_step, bar, config.train, report, lambda state: checkpoints.save(state, description))
    checkpoints.close()


if __name__ == "__main__":
    cli.run(main, TrainCommand)
