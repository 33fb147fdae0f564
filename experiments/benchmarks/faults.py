"""Tries the promises of `docs/promises.md` on whole runs, and runs their tests (suite `faults`).

It takes about half an hour. It writes `checks.csv`, one row as each check ends, with the columns of
`faults_check.Check`. A promise may take several checks; checks without a promise measure a cost.
"""

from __future__ import annotations

import csv
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import datasets
from experiments.benchmarks import faults_cost, faults_memory, faults_runs, promises
from experiments.benchmarks.faults_check import Check
from experiments.cli.packages import ROOT


def run(folder: Path) -> None:
    """Makes all checks and writes their table into `folder`."""
    with (folder / "checks.csv").open("w", newline="", buffering=1) as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(Check._fields)
        for check in _checks():
            print(check.line(), flush=True)
            writer.writerow(check._replace(passed=int(check.passed)))


def _checks() -> Iterator[Check]:
    with (
        tempfile.TemporaryDirectory() as name,
        ProcessPoolExecutor(1, get_context("spawn")) as beside,
    ):
        work = Path(name)
        # All runs share these data.
        buffer = datasets.buffer_folder(work / "data", "point_mass_goal", "pd")
        datasets.collect(
            "point_mass_goal", buffer, episodes=200, seed=0, collector="pd", progress=False
        )
        yield from faults_runs.signals(work)
        yield from faults_runs.same_seed(work)
        yield from faults_cost.cost(work)
        # The loop runs beside the checks that follow: none of them measures time.
        growth = beside.submit(faults_memory.growth, work)
        yield from faults_runs.kills(work)
        yield from faults_runs.full_disk(work)
        for promise in promises.read():
            yield _run_tests(promise)
        yield from growth.result()


def _run_tests(promise: promises.Promise) -> Check:
    """Runs the tests of a promise; those under tests/multidevice in a process of their own.

    A test that is skipped, as where this machine lacks what it needs, is no try; the figure is how
    many there are.
    """
    passed = tries = skipped = 0
    for multidevice in (False, True):
        tests = [test for test in promise.tests if ("multidevice" in test) == multidevice]
        if tests:
            line = [sys.executable, "-m", "pytest", "-q", *tests]
            done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True)
            found = re.findall(r"(\d+) (passed|failed|error|skipped)", done.stdout)
            counts = {outcome: int(number) for number, outcome in found}
            skipped += counts.get("skipped", 0)
            passed += counts.get("passed", 0)
            # A process that says nothing of its tests failed, too.
            tries += sum(counts.values()) - counts.get("skipped", 0) if counts else 1
    figure = {"figure": skipped, "unit": "skipped"} if skipped else {}
    return Check(promise.text, "its tests", passed, tries, **figure)
