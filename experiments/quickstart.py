"""Runs everything from nothing to the figure.

    python -m experiments.quickstart        (or `make quickstart`)

The command collects data, trains the agent and its baseline, evaluates both, and plots them
together, into one folder.
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
from experiments import collect, evaluate, train
from experiments.cli import app as cli
from experiments.cli import run_folder, run_status


def main(config: QuickstartCommand, run: Path) -> None:
    """Runs each part as the command of its name, with its share of the settings.

    Raises:
        ValueError: the agents could not be evaluated, see `check_evaluation`.
    """
    # Imported here: a command line is checked before jax, pandas and MuJoCo are loaded.
    from experiments.reports.presentation import present
    from experiments.reports.video import save_video

    check_evaluation(config)
    collect.main(CollectCommand(config.task, config.data))
    results = []
    for command in trained_agents(config, run):
        folder = Path(command.run)
        # A quickstart that is resumed may have finished this agent before.
        if run_status.read_status(folder).get("state") != "finished":
            facts = run_folder.collect_provenance(command, ["python", "-m", *sys.argv])
            run_folder.write_description(folder, command, sys.argv[1:], facts)
            with run_status.track_status(folder, "train"):
                train.main(command, folder)
        # The context is short, so acting needs no ring.
        mesh = replace(config.mesh, ring=1)
        asked = EvaluateCommand(run=command.run, eval=config.eval, mesh=mesh)
        results.append(evaluate.evaluate(asked, folder, again=False))
        save_video(asked, folder, results[-1])
    present(results, run)


def check_evaluation(config: QuickstartCommand) -> None:
    """Raises a ValueError if the agents could not be evaluated after they are trained.

    The check comes before anything is collected.

    Args:
        config: settings of the quickstart.

    Raises:
        ValueError: see `check_conditions`.
    """
    # Imported here: it loads jax.
    from agentic_transformer.evaluation.conditions import (
        check_conditions,
        conditions_of,
        evaluation_tasks,
    )

    tasks = evaluation_tasks(config.task, config.eval, config.seed, config.data)
    for agent in (config.agent, config.baseline):
        check_conditions(
            conditions_of(agent, config.eval), tasks, config.eval, agent, config.data.episodes
        )


def trained_agents(config: QuickstartCommand, run: Path) -> list[TrainCommand]:
    """Returns the commands that train the agent and its baseline.

    Both see equally many trajectories a step: the baseline's rows hold fewer, so it has more rows.
    """
    shared = {
        name: getattr(config, name)
        for name in ("task", "seed", "data", "model", "td3_bc", "eval", "mesh", "resume", "logger")
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
