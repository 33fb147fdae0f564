"""Measured tables and figures: `python -m experiments.benchmark suite=<name>`, one module of
`experiments/benchmarks` a suite.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from agentic_transformer.config import setting
from experiments.cli import app as cli
from experiments.cli import provenance

SUITES = ("agent", "data", "faults", "plan", "ring")


@dataclass
class BenchmarkCommand:
    """`python -m experiments.benchmark`."""

    suite: str = setting("ring", choices=SUITES)
    out: str | None = None


def main(config: BenchmarkCommand) -> None:
    """Runs a suite, whose module has `run(folder)`: it prints its tables and writes CSV and figures
    into the folder.

    What they were made with goes beside them, once they are whole.
    """
    folder = Path(config.out or f"experiments/results/{config.suite}")
    folder.mkdir(parents=True, exist_ok=True)
    words = [
        "python",
        "-m",
        "experiments.benchmark",
        f"suite={config.suite}",
        *([f"out={config.out}"] if config.out else []),
    ]
    facts = provenance.collect(
        words, {"seed": 0}
    )  # before anything is written: is the commit all that ran?
    import_module(f"experiments.benchmarks.{config.suite}").run(folder)
    provenance.write(
        folder / "provenance.json", facts | {"ended": provenance.now()} | provenance.devices()
    )


if __name__ == "__main__":
    cli.run(main, BenchmarkCommand)
