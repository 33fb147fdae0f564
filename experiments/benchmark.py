"""Measured tables and figures: `python -m experiments.benchmark suite=<name>`, one module of `experiments/benchmarks` a suite."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from agentic_transformer.config import setting
from experiments import cli, provenance

SUITES = ("data", "faults", "ring")


@dataclass
class BenchmarkCommand:
    """`python -m experiments.benchmark`."""

    suite: str = setting("ring", choices=SUITES)
    out: str | None = None


def main(config: BenchmarkCommand) -> None:
    """Runs a suite, whose module has `run(folder)`: it prints its tables and writes CSV and figures into the folder.

    `provenance.json` beside them says how they were made; without an "ended" the suite was cut short.
    """
    folder = Path(config.out or f"experiments/results/{config.suite}")
    folder.mkdir(parents=True, exist_ok=True)
    words = [word for word in sys.argv[1:] if not word.startswith("hydra")]
    facts = provenance.collect(["python", "-m", "experiments.benchmark", *words], seeds={})
    provenance.write(folder / "provenance.json", facts)
    import_module(f"experiments.benchmarks.{config.suite}").run(folder)
    provenance.write(folder / "provenance.json", facts | provenance.devices() | {"ended": provenance.now()})


if __name__ == "__main__":
    cli.run(main, BenchmarkCommand)
