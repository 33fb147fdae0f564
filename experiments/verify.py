"""Reads a whole buffer and reports what is wrong with it.

python -m experiments.verify path=data/walker/rnd/buffer
"""

from __future__ import annotations

import sys
from pathlib import Path

import datasets
from agentic_transformer.config import VerifyCommand
from agentic_transformer.errors import raise_config_error
from experiments.cli import app as cli


def main(config: VerifyCommand) -> None:
    """Reports file by file; the exit code is 1 if there are problems."""
    if not Path(config.path).is_dir():
        raise_config_error(f"path={config.path}: no such folder", "a folder of episodes")
    report = datasets.verify(config.path, config.domain)
    for name, problem in sorted(report.problems.items()):
        print(f"{name}: {problem}")
    for remark in report.remarks:
        print(f"remark: {remark}")
    print(
        f"{report.episodes} episodes, {report.transitions} transitions, "
        f"{len(report.problems)} with problems"
    )
    if report.problems:
        sys.exit(1)


if __name__ == "__main__":
    cli.run(main, VerifyCommand)
