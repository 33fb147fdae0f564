"""The page of promises is whole: it is numbered through, and every test that it names exists."""

import ast
from pathlib import Path

import pytest

from experiments.benchmarks import faults, faults_check, promises

ROOT = Path(__file__).parents[1]


def functions(file):
    return {
        node.name
        for node in ast.walk(ast.parse((ROOT / file).read_text()))
        if isinstance(node, ast.FunctionDef)
    }


def test_promises_are_numbered_through():
    assert [promise.number for promise in promises.read()] == list(
        range(1, len(promises.read()) + 1)
    )


@pytest.mark.parametrize("promise", promises.read(), ids=lambda promise: str(promise.number))
def test_every_promise_is_held_by_tests_that_exist(promise):
    assert promise.tests
    for test in promise.tests:
        file, _, function = test.partition("::")
        assert file.startswith("tests/") and (ROOT / file).is_file(), test
        assert not function or (function.startswith("test_") and function in functions(file)), test


def test_promises_that_are_tried_on_whole_runs_stand_on_the_page():
    assert set(faults_check.TRIED) <= {promise.text for promise in promises.read()}


def test_every_line_of_the_page_that_names_a_test_belongs_to_a_promise():
    read = [test for promise in promises.read() for test in promise.tests]
    assert len(read) == sum(
        line.startswith("- `tests/") for line in promises.PAGE.read_text().splitlines()
    )


def test_skipped_tests_of_a_promise_are_counted(tmp_path):
    """They are neither passed nor failed."""
    file = tmp_path / "test_of_a_promise.py"
    file.write_text(
        "import pytest\n\n"
        "def test_passes(): pass\n\n"
        "def test_fails(): raise ValueError\n\n"
        "@pytest.mark.parametrize('number', range(3))\n"
        "def test_is_skipped(number): pytest.skip('no GPU here')\n"
    )
    check = faults._run_tests(promises.Promise(1, "Nothing is lost.", [str(file)]))
    assert (check.passed, check.tries, check.figure, check.unit) == (1, 2, 3, "skipped")
