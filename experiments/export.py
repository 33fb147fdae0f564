"""Exports an inference-only copy of a run (no optimizer state).

python -m experiments.export run=<run folder> out=<folder>

The copy is a run folder without an optimizer: `experiments.evaluate` evaluates it,
`checkpoint.load_policy` loads it.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from agentic_transformer.config import ExportCommand
from experiments.cli import app as cli


def main(config: ExportCommand, run: Path) -> None:
    """The newest whole checkpoint, and the files that say what the run was."""
    from agentic_transformer.training.checkpoint import Checkpoints
    from experiments.cli import run_folder

    out = Path(config.out)
    if out.exists():
        raise ValueError(f"out={out} is there already; name a new folder")
    checkpoints = Checkpoints(run)
    copy = checkpoints.export(checkpoints.newest(), out)
    checkpoints.close()
    for name in (run_folder.CONFIG, run_folder.PROVENANCE):
        shutil.copy(run / name, out / name)
    print(
        f"{copy}: {sum(path.stat().st_size for path in copy.rglob('*') if path.is_file()) / 1e3:.0f} kB",
        flush=True,
    )


if __name__ == "__main__":
    cli.run(main, ExportCommand)
