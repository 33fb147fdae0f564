"""Measures tables and figures: each suite is a module of `experiments/benchmarks`.

python -m experiments.benchmark suite=ring
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from agentic_transformer.config import setting
from agentic_transformer.errors import raise_config_error
from agentic_transformer.evaluation.partial_results import PartialResults
from agentic_transformer.run_files import PROVENANCE, read_json, write_json
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

    The suite writes into `<out>/unfinished`. Once it has ended, its files take the place of those
    of the run before it, and the provenance names them: tables and provenance are of one run. After
    a kill, suites that keep finished parts go on in that folder, by the same command and code.

    Raises:
        UserError: an installed copy lacks the tests that the suite runs, or the folder has the
            results of another suite.
    """
    if config.suite == "faults" and not (ROOT / "tests").is_dir():
        problem = f"suite=faults: the tests that it runs are not beside {ROOT / 'experiments'}"
        raise_config_error(problem, "suite=faults in a clone of the repository")
    folder = Path(config.out or f"experiments/results/{config.suite}")
    argv = ["python", "-m", "experiments.benchmark", f"suite={config.suite}"]
    earlier = read_json(folder / PROVENANCE)
    if earlier and argv[-1] not in earlier.get("command", "").split():
        problem = f"out={folder} has the results of another command: {earlier.get('command')}"
        raise_config_error(problem, "out=<another folder>")
    argv += [f"out={config.out}"] if config.out else []
    # Before anything is written: the files of a suite must not count as changes of the code.
    facts = provenance.collect(argv, {"seed": 0})
    made_by = {key: facts[key] for key in ("commit", "python", "packages")}
    made_by |= {"suite": config.suite, "uncommitted changes": provenance.changes()}
    parts = PartialResults(folder / "unfinished", made_by)
    import_module(f"experiments.benchmarks.{config.suite}").run(parts.folder)
    facts |= {"ended": provenance.now()} | provenance.devices()
    made = _tables_and_figures(parts.folder)
    before = earlier.get("files") or _tables_and_figures(folder) if earlier else ()
    for name in (PROVENANCE, *before):  # a run may make fewer than the last did
        (folder / name).unlink(missing_ok=True)
    for name in made:
        parts.take(name, folder / name)
    write_json(folder / PROVENANCE, facts | {"files": made})
    parts.remove()


def _tables_and_figures(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix in (".csv", ".png"))


if __name__ == "__main__":
    cli.run(main, BenchmarkCommand)
