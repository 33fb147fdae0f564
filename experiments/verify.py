"""Checks a whole buffer: `python -m experiments.verify path=data/walker/rnd/buffer`."""

from __future__ import annotations

import sys

from agentic_transformer.config import VerifyCommand
from experiments.cli import app as cli


def main(config: VerifyCommand) -> None:
    """Reports problems file by file; exits with 1 if there are any."""
    import datasets  # with HDF5, which a check of the command line does not wait for

    report = datasets.verify(config.path, config.domain)
    for name, problem in sorted(report.problems.items()):
        print(f"{name}: {problem}")
    for remark in report.remarks:
        print(f"remark: {remark}")
    found = f"{report.episodes} episodes, {report.transitions} transitions"
    print(f"{found}, {len(report.problems)} with problems")
    sys.exit(1 if report.problems else 0)


if __name__ == "__main__":
    cli.run(main, VerifyCommand)
