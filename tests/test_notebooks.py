"""Notebooks of the documentation run, and their committed outputs are those of a whole run."""

import json
import re

import pytest

from tests.processes import environment
from tests.test_architecture import ROOT

pytestmark = pytest.mark.slow

NOTEBOOKS = sorted(ROOT.glob("docs/*.ipynb"))


def printed(notebook):
    """The text that the cells of a notebook printed."""
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    texts = [output["text"] for output in outputs if output["output_type"] == "stream"]
    return "".join("".join(text) for text in texts)


def returns(notebook):
    return [float(number) for number in re.findall(r"attempt \d+: (\d+)", printed(notebook))]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_runs_and_its_agent_improves(path, monkeypatch):
    nbclient = pytest.importorskip("nbclient", reason="in the extra `test`")
    nbformat = pytest.importorskip("nbformat", reason="in the extra `test`")
    pytest.importorskip("ipykernel", reason="in the extra `test`")
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": ROOT}}).execute()
    earned = returns(notebook)
    assert len(earned) == 8 and earned[-1] > 2 * earned[0]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_is_committed_as_it_ran(path):
    """Every cell has run, one after the other, and there are figures."""
    notebook = json.loads(path.read_text())
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    kinds = {
        kind for cell in cells for output in cell["outputs"] for kind in output.get("data", {})
    }
    assert "image/png" in kinds
    assert returns(notebook)[-1] > 2 * returns(notebook)[0]
