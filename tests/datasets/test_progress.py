"""Progress is a bar in a terminal, and a few plain lines elsewhere."""

import io

from tqdm import tqdm

from datasets import progress
from datasets.progress import progress_bar


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_in_a_file_it_is_one_line_that_says_the_end(capsys):
    assert list(progress_bar("reading", range(200), unit="it", show=True)) == list(range(200))
    said = capsys.readouterr().err
    assert said.startswith("reading: 100% 200/200 [") and said.count("\n") == 1
    assert "\r" not in said and "|" not in said


def test_a_line_comes_when_the_last_one_was_long_ago(capsys, monkeypatch):
    with progress_bar("reading", total=8, unit="it", show=True) as bar:
        bar.update(3)
        bar.refresh()
        tqdm.write("beside it")
        assert capsys.readouterr() == ("beside it\n", "")
        monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LINES", 0.0)
        bar.set_postfix(loss=1)
        said = capsys.readouterr().err
        assert said.startswith("reading:  38% 3/8 [") and said.endswith("loss=1]\n")
    assert capsys.readouterr().err.count("\n") == 1


def test_nothing_is_said_if_nothing_is_to_be_shown(capsys):
    assert list(progress_bar("reading", range(3), unit="it", show=False)) == [0, 1, 2]
    assert capsys.readouterr().err == ""


def test_in_a_terminal_it_is_a_bar(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    list(progress_bar("reading", range(3), unit="it", show=True))
    assert "\rreading: 100%|" in terminal.getvalue()
