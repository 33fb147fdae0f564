"""Exports an inference-only copy of a run, without optimizer state.

    python -m experiments.export run=<run folder> out=<folder>

The copy is a run folder: `experiments.evaluate` evaluates it, `agentic_transformer.load` loads it.
"""

from __future__ import annotations

from pathlib import Path

from agentic_transformer.config import ExportCommand
from agentic_transformer.run_files import copy_description
from experiments.cli import app as cli


def main(config: ExportCommand, run: Path) -> Path:
    """Copies the newest whole checkpoint, and the files that describe the run.

    Returns:
        the folder of the copy.

    Raises:
        ValueError: the folder for the copy exists.
    """
    # Imported here: a command line is checked before jax is loaded, and only then is it certain
    # that `datasets` is this project's.
    from agentic_transformer.training.checkpoint_reader import CheckpointReader
    from datasets.new_folder import new_folder

    out = Path(config.out)
    if out.exists():
        raise ValueError(f"out={out} is there already; name a new folder")
    checkpoints = CheckpointReader(run)
    step = checkpoints.newest()
    with new_folder(out) as partial:
        checkpoints.export(step, partial)
        copy_description(run, partial)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(f"{out}: step {step}, {size / 1e3:.0f} kB", flush=True)
    return out


if __name__ == "__main__":
    cli.run(main, ExportCommand)
