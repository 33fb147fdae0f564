"""Plans for machines that are not there: `python -m experiments.plan topology=v5e:4x4 model=at_350m
trajectories=128`.
"""

from __future__ import annotations

from pathlib import Path

from agentic_transformer.config import PlanCommand
from experiments.cli import app as cli


def main(commands: list[PlanCommand]) -> None:
    """Estimates, compiles and solves for each combination of settings, then reports on all of them
    together.
    """
    from experiments.capacity import report
    from experiments.capacity.kept import Compilations
    from experiments.capacity.plan import make_plan

    plans = [
        make_plan(command, Compilations(Path(command.out) / "compiled")) for command in commands
    ]
    report.write(plans, Path(commands[0].out))


if __name__ == "__main__":
    cli.run(main, PlanCommand, together=True)
