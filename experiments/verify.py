"""Reads a whole buffer and reports what is wrong with it.

python -m experiments.verify path=data/walker/rnd/buffer
"""

from __future__ import annotations

import sys

import datasets
from agentic_transformer.config import VerifyCommand
from experiments.cli import app as cli


def main(config: VerifyCommand) -> None:
    """Reports file by file; the exit code is 1 if there are problems."""
    report = datasets.verify(config.path, config.domain)
    for name, problem in sorted(report.problems.items()):
        print(f"{name}: {problem}")
    for remark in report.remarks:
        print(f"remark: {remark}")
    print(
        f"{report.episodes} episodes, {report.transitions} transitions, "
        f"{len(report.problems)} with problems"
    )
    sys.exit(1 if report.problems else 0)


if __name__ == "__main__":
    cli.run(main, VerifyCommand)
