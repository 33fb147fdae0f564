"""From nothing to the figure: `python -m experiments.quickstart` (or `make quickstart`).

Collects data, trains the agent and its baseline, evaluates both and plots them together, into one folder.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from agentic_transformer.config import CollectCommand, EvaluateCommand, QuickstartCommand, TrainCommand
from experiments.harness import cli


def main(config: QuickstartCommand, run: Path) -> None:
    """Each part is the command of its name, called here with its settings."""
    from experiments import collect, train
    from experiments.evaluate import evaluate
    from experiments.harness import run_folder
    from experiments.reports.presentation import present

    collect.main(CollectCommand(config.task, config.data))
    agents = trained_agents(config, run)
    for command in agents:
        folder = Path(command.run)
        if run_folder.status(folder).get("state") == "finished":  # by a quickstart that is being resumed
            continue
        run_folder.describe(folder, command, sys.argv[1:], run_folder.facts_of(command, ["python", "-m", *sys.argv]))
        run_folder.mark(folder, "running", command="train")
        train.main(command, folder)
        # Acting needs no ring where the context is short.
        evaluate(EvaluateCommand(run=command.run, eval=config.eval, mesh=replace(config.mesh, ring=1)), folder)
        run_folder.finish(folder, "finished")
    present([Path(command.run) for command in agents], run)


def trained_agents(config: QuickstartCommand, run: Path) -> list[TrainCommand]:
    """The agent and its baseline, which sees as many trajectories a step: its rows hold fewer, so there are more of them."""
    shared = {name: getattr(config, name) for name in ("task", "seed", "data", "model", "td3_bc", "eval", "mesh", "resume")}
    commands = []
    for agent in (config.agent, config.baseline):
        rows = config.train.batch * config.agent.trajectories // agent.trajectories
        commands.append(TrainCommand(run=str(run / agent.name), agent=agent, train=replace(config.train, batch=rows), **shared))
    return commands


if __name__ == "__main__":
    cli.run(main, QuickstartCommand)
