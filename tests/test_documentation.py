"""Checks that pages say what is true: examples and commands run, and links lead somewhere."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.reports import reference_pages
from tests import documented_commands
from tests.processes import environment
from tests.test_architecture import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("experiments/**/*.md")])
LINES_OF_README, NUMBERS_OF_README = 130, 40
EXAMPLES = [
    pytest.param(
        block,
        id=f"{page.relative_to(ROOT)}-{number}",
        marks=[pytest.mark.slow] if "agentic_transformer.load(" in block else [],
    )
    for page in PAGES
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.S))
    if not block.startswith("# envs/")  # lines to be put into a file of the code
]


@pytest.mark.parametrize("block", EXAMPLES)
def test_python_examples_run(block, monkeypatch, tmp_path):
    """They run in a folder that has the repository's results, and may write there."""
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    monkeypatch.chdir(tmp_path)
    with documented_commands.registrations_taken_back():
        exec(compile(block, "example", "exec"), {})


def run(folder, *words):
    """Runs a program in a folder; returns what it prints.

    The programs of a folder share what they compiled, as those of a user do.
    """
    shared = environment(JAX_COMPILATION_CACHE_DIR=str(folder / "compiled"))
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, env=shared, capture_output=True, text=True
    )
    assert done.returncode == 0, (words, done.stderr)
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    ["docs/tutorial.md", "docs/scaling.md", "docs/data.md", "docs/capacity.md", "CONTRIBUTING.md"],
)
def test_shell_blocks_run(page, tmp_path):
    commands = documented_commands.small_commands(ROOT / page)
    assert commands
    given = {word for command in commands for word in command}
    if "experiment=walker_rnd" in given:  # in place of a download
        words = ["task=walker_walk", "data.algo=random", "data.episodes=40", "data.length=20"]
        run(tmp_path, "-m", "experiments.collect", *words)
        (tmp_path / "data/walker/random").rename(tmp_path / "data/walker/rnd")
    collects = any("collect" in command for command in commands)
    if "to=minari" in given or ("experiment=search" in given and not collects):
        run(tmp_path, "-m", "experiments.collect", "data.episodes=40")
    for name, program in documented_commands.programs(ROOT / page).items():
        (tmp_path / name).write_text(program)
    newest = tmp_path
    for name, *words in commands:
        words = [documented_commands.fill_in(word, newest) for word in words]
        if name.endswith(".py"):
            run(tmp_path, name)
            continue
        said = run(tmp_path, "-m", f"experiments.{name}", *words)
        newest = Path(next(iter(re.findall(r"run folder: (.*)", said)), newest))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_committed_runs_are_evaluated_into_another_folder(page):
    """Results in the run's own folder would change the checkout: later runs would be `dirty`."""
    runs = re.findall(r"run=experiments/results/\S+?/run\b(.{,20})", page.read_text())
    assert [text for text in runs if not text.startswith(" out=runs/")] == []


def test_readme_is_short():
    """Its lines, and its numbers outside blocks of code and targets of links, are few."""
    text = (ROOT / "README.md").read_text()
    prose = re.sub(r"```.*?```|\]\([^)]*\)", "", text, flags=re.S)
    numbers = re.findall(r"\d{1,3}(?:,\d{3})+(?!\d)|\d+(?:\.\d+)?", prose)
    assert len(text.splitlines()) <= LINES_OF_README
    assert len(numbers) <= NUMBERS_OF_README, numbers


@pytest.mark.parametrize("name", reference_pages.PAGES)
def test_generated_pages_are_up_to_date(name):
    page = reference_pages.PAGES[name]()
    said = "run: python -m experiments.reports.reference_pages"
    assert (ROOT / "docs" / name).read_text() == page, said


def test_sections_of_settings_have_names_of_their_own():
    """Two commands have a group `data`, whose defaults differ."""
    headings = re.findall(r"^## .*$", reference_pages.configuration_page(), re.M)
    assert len(headings) == len(set(headings))


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    words = ["-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    run(ROOT, *words)
    for page in ("index.html", "docs/results.html", "experiments/results/index.html"):
        assert (tmp_path / "site" / page).exists(), page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    text = page.read_text()
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        file, _, anchor = target.partition("#")
        if "://" in target:
            continue
        found = page.parent / file if file else page
        if not found.exists() or (anchor and anchor not in anchors(found)):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_rows_of_a_table_have_as_many_cells_as_its_head(page):
    """A table whose lines are joined, or lack a cell, is shown as text."""
    prose = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    plain = re.sub(r"`[^`\n]*`", "", prose).replace("\\|", "")
    heads = [line for line in plain.splitlines() if re.search(r"\|[ :]*-{3}", line)]
    assert [line for line in heads if set(line) - set("|-: ")] == []
    for table in re.findall(r"(?:^\|.*\n)+", plain, re.M):
        assert len({row.count("|") for row in table.splitlines()}) == 1, table


def anchors(page):
    """Returns the anchors that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
