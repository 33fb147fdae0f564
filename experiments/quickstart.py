"""From nothing to the figure: `python -m experiments.quickstart` (or `make quickstart`).

Collects data, trains the agent and its baseline, evaluates both and plots them together, into one
folder.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from agentic_transformer.config import (
    CollectCommand,
    EvaluateCommand,
    QuickstartCommand,
    TrainCommand,
)
from experiments.cli import app as cli


def main(config: QuickstartCommand, run: Path) -> None:
    """Each part is the command of its name, called here with its settings."""
    from experiments import collect, train
    from experiments.cli import run_folder
    from experiments.evaluate import evaluate, save_video
    from experiments.reports.presentation import present

    check_evaluation(config)
    collect.main(CollectCommand(config.task, config.data))
    agents = trained_agents(config, run)
    results = []
    for command in agents:
        folder = Path(command.run)
        if (
            run_folder.status(folder).get("state") != "finished"
        ):  # by a quickstart that is being resumed
            run_folder.describe(
                folder,
                command,
                sys.argv[1:],
                run_folder.facts_of(command, ["python", "-m", *sys.argv]),
            )
            with run_folder.running(folder, "train"):
                train.main(command, folder)
        # Acting needs no ring where the context is short.
        asked = EvaluateCommand(
            run=command.run, eval=config.eval, mesh=replace(config.mesh, ring=1)
        )
        results.append(evaluate(asked, folder, anew=False))
        save_video(asked, folder, results[-1])
    present(results, run)


def check_evaluation(config: QuickstartCommand) -> None:
    """Raises a ValueError, before anything is collected or trained, if the agents could not be
    evaluated afterwards.
    """
    from agentic_transformer.evaluation.rollouts import (
        check_conditions,
        conditions_of,
        evaluation_tasks,
    )

    tasks = evaluation_tasks(config.task, config.eval, config.seed)
    for agent in (config.agent, config.baseline):
        check_conditions(
            conditions_of(agent, config.eval), tasks, config.eval, agent, config.data.episodes
        )


def trained_agents(config: QuickstartCommand, run: Path) -> list[TrainCommand]:
    """The agent and its baseline, which sees as many trajectories a step: its rows hold fewer, so
    there are more of them.
    """
    shared = {
        name: getattr(config, name)
        for name in ("task", "seed", "data", "model", "td3_bc", "eval", "mesh", "resume")
    }
    commands = []
    for agent in (config.agent, config.baseline):
        rows = config.train.batch * config.agent.trajectories // agent.trajectories
        commands.append(
            TrainCommand(
                run=str(run / agent.name),
                agent=agent,
                train=replace(config.train, batch=rows),
                **shared,
            )
        )
    return commands


if __name__ == "__main__":
    cli.run(main, QuickstartCommand)
