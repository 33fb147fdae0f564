"""Runs everything from nothing to the figure.

    python -m experiments.quickstart        (or `make quickstart`)

The command collects data, trains the agent and its baseline, evaluates both, and plots them
together, into one folder. It says each of these stages.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path

from agentic_transformer import run_files
from agentic_transformer.config import (
    CollectCommand,
    EvaluateCommand,
    QuickstartCommand,
    TrainCommand,
)
from agentic_transformer.settings import shell_words
from experiments import collect, evaluate, train
from experiments.cli import app as cli
from experiments.cli import run_folder, run_status


def main(config: QuickstartCommand, run: Path) -> None:
    """Runs each part as the command of its name, with its share of the settings.

    Raises:
        ValueError: the agents could not be evaluated, see `check_evaluation`.
    """
    # Imported here: a command line is checked before jax, pandas and MuJoCo are loaded.
    from agentic_transformer.training.learner import check_devices
    from experiments.reports.presentation import present
    from experiments.reports.video import save_video

    check_evaluation(config)
    commands = trained_agents(config, run)
    for command in commands:
        check_devices(command)
    stages = _stages(2 * len(commands) + 2)
    next(stages)("collect trajectories of the task's domain")
    collect.main(CollectCommand(config.task, config.data))
    print(f"run folder: {run}", flush=True)  # only now: without data the folder is removed
    results = []
    for command in commands:
        folder, name = Path(command.run), command.agent.name
        next(stages)(f"train {name}: compiling first, then {command.train.steps} steps")
        if not results and command.model.head == "mixture":
            print(LOSS, flush=True)
        folder.mkdir(exist_ok=True)
        with run_files.lock(folder):  # experiments.train could go on with it
            # A quickstart that is resumed may have finished this agent before.
            if run_status.read_status(folder).get("state") != "finished":
                facts = run_folder.collect_provenance(command, ["python", "-m", *sys.argv])
                run_folder.write_description(folder, command, sys.argv[1:], facts)
                with run_status.track_status(folder, "train"):
                    train.main(command, folder)
        next(stages)(f"evaluate {name} on fresh tasks: compiling first")
        # The context is short, so acting needs no ring.
        mesh = replace(config.mesh, ring=1)
        asked = EvaluateCommand(run=command.run, eval=config.eval, mesh=mesh)
        results.append(evaluate.evaluate(asked, folder, again=False))
        save_video(asked, folder, results[-1])
    next(stages)("tables and figures")
    present(results, run)
    print(_ending(run, commands[0]), flush=True)


LOSS = (
    "The loss is the negative logarithm of a probability density of actions, in nats. A density "
    "may be larger than 1, so the loss may fall below 0."
)


def _stages(count: int) -> Iterator[Callable[[str], None]]:
    """Yields functions that print what the next of `count` stages does."""
    for number in range(1, count + 1):
        yield lambda words, number=number: print(f"stage {number} of {count}: {words}", flush=True)


def _ending(run: Path, trained: TrainCommand) -> str:
    """Returns what was learned, where the figure is, and what to try next: a line each."""
    # Imported here: a command line is checked before pandas is loaded.
    from agentic_transformer.evaluation.records import read_table

    summary = read_table((run / "summary.csv").read_bytes())
    of_agent = summary[summary["agent"] == trained.agent.name]  # the baseline may have contexts too
    means = of_agent.set_index(["condition", "trajectories"])["mean"]
    longest, learned = max(trained.eval.trajectories), "see the table above"
    if ("own", longest) in means:
        own, first = means["own", longest], means["own", 1]
        learned = f"attempt {longest} of a context earns {own:.1f}, attempt 1 earned {first:.1f}"
    if ("own", longest) in means and ("no_context", longest) in means:
        alone = means["no_context", longest]
        learned += f"; with an empty context attempt {longest} earns {alone:.1f}"
    words = shell_words({"load": trained.run, "out": str(run / "attempts.gif")})
    return (
        f"what was learned: {learned}\n"
        f"the figure: {run / 'return_vs_context.png'}\n"
        f"what to try next: python -m experiments.watch {words}, then docs/tutorial.md"
    )


def check_evaluation(config: QuickstartCommand) -> None:
    """Checks, before anything is collected, that the agents can be evaluated once they are trained.

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
            conditions_of(agent, config.eval, config.task),
            tasks,
            config.eval,
            agent,
            config.data.episodes,
        )


def trained_agents(config: QuickstartCommand, run: Path) -> list[TrainCommand]:
    """Returns the commands that train the agent and its baseline.

    Both see equally many trajectories a step: the baseline's rows hold fewer, so it has more rows.
    """
    shared = {field.name: getattr(config, field.name) for field in fields(TrainCommand)}
    commands = []
    for agent in (config.agent, config.baseline):
        rows = config.train.batch * config.agent.trajectories // agent.trajectories
        own = {
            "run": str(run / agent.name),
            "agent": agent,
            "train": replace(config.train, batch=rows),
        }
        commands.append(TrainCommand(**shared | own))
    return commands


if __name__ == "__main__":
    cli.run(main, QuickstartCommand)
