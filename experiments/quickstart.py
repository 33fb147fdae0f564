"""From nothing to the figure: `python -m experiments.quickstart` (or `make quickstart`).

Collects data, trains the agent and its baseline, evaluates both and plots them together, into one folder.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from agentic_transformer.config import EvaluateCommand, QuickstartCommand, TrainCommand
from experiments import cli


def main(config: QuickstartCommand) -> None:
    """Each part is the command of its name, called here with its settings."""
    from experiments import collect, run_folder, train
    from experiments.evaluate import evaluate
    from experiments.plot import plot

    folder = Path(config.run)
    collect.collect(config.task, config.data)
    runs = []
    for command in trained_agents(config):
        run = Path(command.run)
        runs.append(run)
        run.mkdir(exist_ok=True)
        run_folder.describe(run, command, [], [sys.executable, *sys.argv])
        train.main(command)
        evaluate(EvaluateCommand(run=str(run), eval=config.eval, mesh=config.mesh), run)
        run_folder.finish(run, "finished")
    plot(runs, folder)


def trained_agents(config: QuickstartCommand) -> list[TrainCommand]:
    """The agent and its baseline, which sees as many trajectories a step: its rows hold fewer, so there are more of them."""
    shared = {name: getattr(config, name) for name in ("task", "seed", "data", "model", "eval", "mesh")}
    commands = []
    for agent in (config.agent, config.baseline):
        rows = max(1, config.train.batch * config.agent.trajectories // agent.trajectories)
        run = str(Path(config.run) / agent.name)
        commands.append(TrainCommand(run=run, agent=agent, train=replace(config.train, batch=rows), **shared))
    return commands


if __name__ == "__main__":
    cli.run(main, QuickstartCommand, folder="new")
