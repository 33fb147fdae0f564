"""Measures tables and figures: each suite is a module of `experiments/benchmarks`.

python -m experiments.benchmark suite=ring
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from agentic_transformer.config import setting
from agentic_transformer.errors import raise_config_error
from agentic_transformer.run_files import write_json
from experiments.cli import app as cli
from experiments.cli import provenance
from experiments.cli.packages import ROOT

SUITES = ("agent", "data", "data_scale", "faults", "gpu", "plan", "ring")


@dataclass
class BenchmarkCommand:
    """Measures a suite: tables as CSV, and figures."""

    suite: str = setting(
        "ring",
        "ring: attention backbones and peers; agent: long contexts, acting, training; data: "
        "relabelling, stepping, sampling; data_scale: training on 10 million steps; faults: what "
        "must not harm a run; gpu: exactness and speed on one GPU, in eight minutes; plan: the "
        "longest contexts that fit pods that are not there.",
        choices=SUITES,
    )
    out: str | None = setting(
        None, "Folder of CSV and figures; null: experiments/results/<suite>.", example="results"
    )


def main(config: BenchmarkCommand) -> None:
    """Runs a suite, whose `run(folder)` prints its tables and writes CSV and figures.

    Once they are whole, the provenance is written beside them.

    Raises:
        UserError: an installed copy lacks the tests that the suite runs.
    """
    if config.suite == "faults" and not (ROOT / "tests").is_dir():
        problem = f"suite=faults: the tests that it runs are not beside {ROOT / 'experiments'}"
        raise_config_error(problem, "suite=faults in a clone of the repository")
    folder = Path(config.out or f"experiments/results/{config.suite}")
    folder.mkdir(parents=True, exist_ok=True)
    argv = ["python", "-m", "experiments.benchmark", f"suite={config.suite}"]
    argv += [f"out={config.out}"] if config.out else []
    # Before anything is written: is the commit all that ran?
    facts = provenance.collect(argv, {"seed": 0})
    import_module(f"experiments.benchmarks.{config.suite}").run(folder)
    ended = {"ended": provenance.now()} | provenance.devices()
    write_json(folder / "provenance.json", facts | ended)


if __name__ == "__main__":
    cli.run(main, BenchmarkCommand)
