"""The report is one file: nothing in it is fetched, and it says what the runs' files say."""

import base64
import json
import shutil
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from agentic_transformer.config import ReportCommand
from agentic_transformer.evaluation.results_folder import FIGURES
from experiments.report import main
from experiments.reports import figures
from experiments.reports.condition_looks import NAMES
from experiments.reports.html_report import _CAPTIONS, write_report
from tests.evaluation.test_statistics import make_records
from tests.reports.test_presentation import RETURNS, make_run

VOID = {"meta", "img", "link", "br"}


class Page(HTMLParser):
    """Reads a page; fails where tags do not match."""

    def __init__(self, text):
        super().__init__()
        self.open, self.addresses, self.text, self.rows = [], [], [], []
        self.folded = []  # what is folded up: its name, and how many rows stand before it
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.addresses += [v for k, v in attributes if k in ("src", "href", "srcset", "data")]
        if tag == "tr":
            self.rows.append([])
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1].append(data)
        if self.open and self.open[-1] == "summary":
            self.folded.append((data, len(self.rows)))


def test_every_figure_has_a_caption():
    assert set(_CAPTIONS) == set(FIGURES)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    made = []
    for seed, width in ((0, 64), (1, 128)):
        config = f"agent: {{name: '<at>'}}\nmodel: {{width: {width}, layers: 2}}\nseed: {seed}\n"
        run = make_run(folder / f"{seed}", make_records(RETURNS, agent="<at>", seed=seed), config)
        facts = {"commit": f"commit-{seed}", "command": "train & more", "packages": {"jax": "1.2"}}
        facts |= {"episodes": 30 + seed, "episodes_there": 40}
        (run / "provenance.json").write_text(json.dumps(facts))
        made.append(run)
    (made[0] / "attempts.mp4").write_bytes(b"a video")
    return made


@pytest.fixture(scope="module")
def page(runs):
    write_report(runs, runs[0].parent / "out" / "report.html")
    return Page((runs[0].parent / "out" / "report.html").read_text())


def test_nothing_is_fetched(page, runs):
    assert page.addresses and all(address.startswith("data:") for address in page.addresses)
    held = [base64.b64decode(address.partition("base64,")[2]) for address in page.addresses]
    assert b"a video" in held
    assert sum(content.startswith(b"\x89PNG") for content in held) >= 2


def test_settings_that_differ_stand_beside_each_other(page, runs):
    tables = [row for row in page.rows if row[0] in ("setting", "model.width", "seed")]
    names = [run.name for run in runs]
    assert tables[:3] == [["setting", *names], ["model.width", "64", "128"], ["seed", "0", "1"]]
    assert "Settings that differ" in page.text


def test_videos_and_all_settings_stand_under_the_names_of_their_runs(page):
    texts = [text.strip() for text in page.text if text.strip()]
    assert texts[texts.index("Videos") + 1] == "0"  # the second run has none
    assert [name for name, _ in page.folded] == ["0", "1"]
    (_, first), (_, second) = page.folded
    for rows, width in ((page.rows[first:second], "64"), (page.rows[second:], "128")):
        assert rows[0] == ["setting", "value"] and ["model.width", width] in rows


def test_the_own_context_is_compared_with_what_is_shown(tmp_path):
    """Differences with their intervals, of enough contexts; runs are told apart by their paths."""
    contexts = 20
    runs = []
    for seed, folder in enumerate(("a", "b")):
        own = np.array([[1.0, 9.0 + seed]] * contexts)
        tables = [
            make_records(own - less, condition, seed=seed)
            for condition, less in (("own", 0.0), ("no_context", 2.0), ("foreign", 3.0))
        ]
        (tmp_path / folder).mkdir()
        config = f"agent: {{name: at}}\nseed: {seed}\neval: {{tasks: 1}}\n"
        runs.append(make_run(tmp_path / folder / "at", pd.concat(tables), config))
        command = {"command": {"eval": {"tasks": 7 + seed}}}
        (runs[-1] / "evaluation.json").write_text(json.dumps(command))
    write_report(runs, tmp_path / "report.html", ["own", "foreign"])
    page = Page((tmp_path / "report.html").read_text())
    start = next(i for i, row in enumerate(page.rows) if "difference" in row)
    assert page.rows[start + 1 : start + 2] == [
        ["at", "t", "2", NAMES["foreign"], "+3.00 [+3.00, +3.00]", "40"]
    ]
    assert not any(NAMES["no_context"] in cell for row in page.rows for cell in row)
    (head,) = [row for row in page.rows if row[:3] == ["agent", "task", "seeds"]]
    assert head[3:] == [f"{NAMES[condition]}, n = 2" for condition in ("own", "foreign")]
    differing = page.rows.index(["setting", "a/at", "b/at"])
    assert page.rows[differing + 1] == ["eval.tasks", "7", "8"]


def test_many_runs_have_a_row_each(tmp_path):
    names = [str(seed) for seed in range(5)]
    for seed in range(5):
        make_run(tmp_path / names[seed], make_records(RETURNS, seed=seed), f"seed: {seed}\n")
    write_report([tmp_path / name for name in names], tmp_path / "report.html")
    rows = Page((tmp_path / "report.html").read_text()).rows
    start = rows.index(["run", "seed"])
    assert rows[start + 1 : start + 6] == [[name, name] for name in names]


def test_names_and_provenance_are_shown_as_they_are(page):
    assert any("<at> model.width=64" in cell for row in page.rows for cell in row)
    assert ["commit", "commit-0", "commit-1"] in page.rows
    assert ["episodes", "30", "31"] in page.rows and ["episodes_there", "40"] in page.rows
    assert ["command", "train & more"] in page.rows  # the same for both
    assert ["jax", "1.2"] in page.rows


def test_a_page_says_what_its_reader_must_know(tmp_path, monkeypatch, capsys):
    """That records are older than the agent, and that a figure could not be drawn."""
    run = make_run(tmp_path / "run", make_records(RETURNS))
    facts = {"settings": {"checkpoint": "20 abc"}, "command": {"checkpoint": "newest"}}
    (run / "evaluation.json").write_text(json.dumps(facts))
    (run / "checkpoints" / "30").mkdir(parents=True)

    def fail(*_):
        raise RuntimeError("no <font>")

    monkeypatch.setattr(figures, "return_vs_context", fail)
    write_report([run], tmp_path / "report.html")
    said = capsys.readouterr().out.splitlines()
    assert "its records are of step 20, training has reached step 30" in said[0]
    assert said[1:] == ["no return_vs_context.png: RuntimeError: no <font>"]
    text = Page((tmp_path / "report.html").read_text()).text
    assert [line for line in text if line in said] == said


def test_a_folder_may_be_named_like_the_head_of_a_table(runs, tmp_path):
    named = [
        shutil.copytree(run, tmp_path / name)
        for run, name in zip(runs, ("setting", "run"), strict=True)
    ]
    write_report(named, tmp_path / "report.html")
    rows = Page((tmp_path / "report.html").read_text()).rows
    assert ["setting", "setting", "run"] in rows and ["model.width", "64", "128"] in rows


def test_the_report_of_one_run_lies_in_its_folder(runs, capsys):
    before = (runs[0] / "records.csv").read_bytes()
    main(ReportCommand(runs=[str(runs[0])]))
    assert capsys.readouterr().out == f"{runs[0] / 'report.html'}\n"
    single = Page((runs[0] / "report.html").read_text())
    assert "Settings that differ" not in single.text
    assert (runs[0] / "records.csv").read_bytes() == before
    with pytest.raises(ValueError, match="names no run"):
        main(ReportCommand())
