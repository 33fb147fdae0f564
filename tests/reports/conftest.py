"""Keeps figures open, so that tests can look at what was drawn."""

import pytest

from experiments.reports.pyplot import plt


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are drawn, kept open."""
    figures = []
    monkeypatch.setattr(plt, "close", figures.append)
    yield figures
    monkeypatch.undo()
    plt.close("all")
