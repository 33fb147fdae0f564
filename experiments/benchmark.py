"""Measured tables and figures: `python -m experiments.benchmark suite=<name>`, one module of
`experiments/benchmarks` a suite.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from agentic_transformer import run_files
from agentic_transformer.config import setting
from experiments.cli import app as cli
from experiments.cli import provenance

SUITES = ("agent", "data", "faults", "plan", "ring")


@dataclass
class BenchmarkCommand:
    """Measures a suite: tables as CSV, and figures."""

    suite: str = setting(
        "ring",
        "ring: attention backbones and peers; agent: long contexts, acting, training; data: "
        "relabelling, stepping, sampling; faults: what must not harm a run; plan: the longest "
        "contexts that fit pods that are not there.",
        choices=SUITES,
    )
    out: str | None = setting(
        None, "Folder of CSV and figures; null: experiments/results/<suite>.", example="results"
    )


def main(config: BenchmarkCommand) -> None:
    """Runs a suite, whose module has `run(folder)`: it prints its tables and writes CSV and figures
    into the folder.

    What they were made with goes beside them, once they are whole.
    """
    folder = Path(config.out or f"experiments/results/{config.suite}")
    folder.mkdir(parents=True, exist_ok=True)
    argv = ["python", "-m", "experiments.benchmark", f"suite={config.suite}"]
    argv += [f"out={config.out}"] if config.out else []
    # Before anything is written: is the commit all that ran?
    facts = provenance.collect(argv, {"seed": 0})
    import_module(f"experiments.benchmarks.{config.suite}").run(folder)
    run_files.write_json(
        folder / "provenance.json", facts | {"ended": provenance.now()} | provenance.devices()
    )


if __name__ == "__main__":
    cli.run(main, BenchmarkCommand)
