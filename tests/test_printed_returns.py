"""Tables of returns on the pages are those of the committed CSVs, each number rounded once."""

import re

import pandas as pd
import pytest

from tests.test_architecture import ROOT

RESULTS = "experiments/results/README.md"
NAMES = dict(
    re.findall(r"^\| `(\w+)` \| ([^|]*) \|", (ROOT / "docs/evaluation.md").read_text(), re.M)
)
CONDITIONS = {name: value for value, name in NAMES.items()} | {
    "own attempts in the context": "own",
    "own": "own",
    "dataset": "dataset",
    "another goal's context": "foreign",
    "behaviour cloning, without contexts": "bc",
    "baseline: behaviour cloning": "bc",
    "posterior sampling over the data's trajectories": "posterior_sampling",
    "Bayes-greedy search over them": "bayes_greedy",
    "order shuffled": "shuffled",
    "rewards of the same attempts at another task": "other_rewards",
    "rewards 0": "zero_rewards",
}
TASKS = {"maze": "point_mass_maze_any", "cheetah": "cheetah_speed"}
# page, heading, folders of its tables of returns in their order
SECTIONS = [
    ("docs/results.md", "Search", ["point_mass_goal"]),
    ("docs/results.md", "Ascending chains", ["quickstart"]),
    ("docs/results.md", "Maze", ["maze"]),
    ("docs/results.md", "Cheetah with a hidden speed", ["cheetah_speed", "cheetah_beyond"]),
    ("docs/results.md", "Jaco", ["jaco_goal"]),
    ("docs/results.md", "What a context is worth", ["context_controls"]),
    ("docs/results.md", "Walker", ["walker_speed"]),
    ("docs/tutorial.md", "1. All at once", ["point_mass_goal"]),
    (RESULTS, "Search", ["point_mass_goal"]),
    (RESULTS, "Walker", ["walker"]),
    (RESULTS, "Walker with a hidden speed", ["walker_speed", "walker_speed/earlier"]),
    (RESULTS, "Cheetah with a hidden speed", ["cheetah_speed"]),
    (RESULTS, "Speeds beyond the training range", ["cheetah_beyond"]),
    (RESULTS, "Jaco reaching for a hidden place", ["jaco_goal"]),
    (RESULTS, "Maze", ["maze"]),
    (RESULTS, "What a context is worth", ["context_controls"]),
]
AGENTS = {
    "TD3": "td3",
    "TD3+BC": "td3_bc",
    "IQL": "iql",
    "CQL": "cql",
    "CRR": "crr",
    "BC-10%": "bc10",
    "DT": "dt",
}


def tables(page, heading, begins):
    """Returns the tables of a section whose first cell begins so: lists of rows of cells."""
    level, text = re.search(
        rf"^(#+) {re.escape(heading)}$(.*)", (ROOT / page).read_text(), re.M | re.S
    ).groups()
    section = re.split(r"^#+ ", text, maxsplit=1, flags=re.M)[0]
    found = re.findall(r"^\|.*\n\|[-|]+\n(?:\|.*\n)+", section, re.M)
    rows = [[line[1:-1].split("|") for line in table.splitlines()] for table in found]
    cells = [[[cell.strip() for cell in row] for row in table] for table in rows]
    return [table for table in cells if table[0][0].startswith(begins)]


def are_printed(cell, *numbers):
    """Asserts that a cell shows the first of the numbers, or all, rounded to its digits.

    A number that stands half way between two may be rounded to either.
    """
    shown = re.findall(r"-?\d+(?:\.\d+)?", cell)
    assert len(shown) in (1, len(numbers)), cell
    for text, number in zip(shown, numbers, strict=False):
        digits = len(text.partition(".")[2])
        assert abs(float(text) - number) <= 0.5 * 10**-digits + 1e-9, (cell, numbers)


@pytest.mark.parametrize(("page", "heading", "folders"), SECTIONS)
def test_returns_by_attempt_are_those_of_the_summary(page, heading, folders):
    compared = []
    for table, folder in zip(tables(page, heading, "return of the n"), folders, strict=True):
        summary = pd.read_csv(ROOT / "experiments/results" / folder / "summary.csv")
        summary = summary.set_index(["task", "condition", "trajectories"]).sort_index()
        task, columns = summary.index[0][0], []
        for head in table[0]:
            where = re.match(r"(?:(\w+), )?(?:n=)?(\d+)(?: \(|$)", head)
            task = TASKS[where[1]] if where and where[1] else task
            columns.append((task, int(where[2])) if where else None)
        for label, *cells in table[2:]:
            condition = CONDITIONS.get(re.sub(r" \(.*", "", label))
            for place, cell in zip(columns[1:], cells, strict=True):
                key = place and cell and (place[0], condition, place[1])
                if key and key in summary.index:
                    are_printed(cell, *summary.loc[key, ["mean", "low", "high"]])
                    compared.append(key)
    assert {"own", "no_context"} <= {condition for _, condition, _ in compared}


@pytest.mark.parametrize(
    ("page", "heading", "begins", "folder"),
    [
        (RESULTS, "The paper's table", "8 trajectories", "paper_table"),
        (RESULTS, "Raw returns of whole episodes", "the fourth", "paper_table_whole"),
        ("docs/results.md", "The paper's table", "fourth", "paper_table_whole"),
    ],
)
def test_columns_of_the_papers_table_are_those_of_its_csv(page, heading, begins, folder):
    table = pd.read_csv(ROOT / "experiments/results" / folder / "paper_table.csv")
    table = table.set_index(["task", "agent", "condition"])
    (head, _, *rows) = tables(page, heading, begins)[0]
    compared, context = set(), {"empty": "no_context", "dataset": "dataset", "own": "own"}
    for label, *cells in rows:
        word = next((word for word in context if word in label), None)
        agent = "at" if word else AGENTS.get(label)
        task = None
        for column, cell in zip(head[1:], cells, strict=True):
            task = column.partition(":")[0] if "_" in column else task
            key = (task, agent, context.get(word, agent))
            kind = "last" if "_" in column else "best_of_n" if "best" in column else None
            if kind and key in table.index:
                columns = ["last", "last_low", "last_high"] if kind == "last" else [kind]
                are_printed(cell, *table.loc[key, columns])
                compared.add(key)
    assert compared == set(table.index)


def test_windows_that_agents_were_trained_with_have_the_returns_of_their_csv():
    windows = pd.read_csv(ROOT / "experiments/results/trained_windows/windows.csv")
    windows = windows.set_index(["window", "trajectories"])[["mean", "low", "high"]]
    head, _, *rows = tables("docs/results.md", "What a context is worth", "window")[0]
    for label, *cells in rows:
        for window, cell in zip(head[1:], cells, strict=True):
            are_printed(cell, *windows.loc[(int(window), int(label.split()[-1]))])
    head, _, *rows = tables(RESULTS, "What a context is worth", "window")[1]
    for window, *cells in rows:
        for column, cell in zip(head[1:], cells, strict=True):
            are_printed(cell, *windows.loc[(int(window), int(column.removeprefix("n=")))])
