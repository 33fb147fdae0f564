"""Settings that were cut short on the disk are refused, though what is left may be YAML."""

import shutil

import pytest

from agentic_transformer.agents.load import read_acting
from agentic_transformer.config import QuickstartCommand, TrainCommand
from agentic_transformer.errors import UserError
from agentic_transformer.find_run import committed_agents
from agentic_transformer.run_files import CONFIG, write_config
from agentic_transformer.same_run import check_goes_on
from experiments.cli.folders import OVERRIDES
from experiments.cli.run_folder import read_config, read_overrides, write_overrides
from experiments.reports.agent_names import settings_in

CUT = "was cut short: its end is missing"


def refused(path, size, read):
    """Returns whether the first bytes of a file are refused, in a line that names it."""
    whole = path.read_bytes()
    path.write_bytes(whole[:size])
    try:
        read(path.parent)
    except UserError as error:
        told = str(error)
        unreadable = "does not hold" in told and not whole.startswith(b"#")  # it has no marks
        empty = not size and f"{path} is empty" in told
        return f"{path} {CUT}" in told or empty or (unreadable and str(path) in told)
    finally:
        path.write_bytes(whole)
    return False


@pytest.mark.parametrize("command", [TrainCommand, QuickstartCommand])
def test_settings_that_were_cut_at_any_byte_are_refused(command, tmp_path):
    write_config(tmp_path, command(seed=3))
    path = tmp_path / CONFIG
    assert read_config(tmp_path, command) == command(seed=3)

    def read(folder):
        return read_config(folder, command)

    sizes = range(path.stat().st_size)
    assert [size for size in sizes if not refused(path, size, read)] == []
    for read in (read_acting, settings_in):
        read(tmp_path)
        assert [size for size in sizes[1::50] if not refused(path, size, read)] == []


@pytest.mark.parametrize("name", sorted(committed_agents()))
def test_settings_of_an_earlier_version_are_read_whole_and_refused_when_cut(name, tmp_path):
    """They have no mark at their end, but their last setting is known."""
    path = tmp_path / CONFIG
    shutil.copy(committed_agents()[name] / CONFIG, path)
    settings_in(tmp_path)
    sizes = range(path.stat().st_size)
    whole = read_config(tmp_path, TrainCommand)

    def read_again(folder):
        return read_config(folder, TrainCommand)

    def go_on(folder):
        check_goes_on(folder, whole)

    for read in (read_again, read_acting, go_on):
        read(tmp_path)
        assert [
            size for size in (*sizes[::50], *sizes[-40:]) if not refused(path, size, read)
        ] == []


def test_the_baseline_of_an_earlier_quickstart_is_missed(tmp_path):
    write_config(tmp_path, QuickstartCommand())
    path = tmp_path / CONFIG
    path.write_text("\n".join(path.read_text().splitlines()[1:-1]) + "\n")  # without the marks
    assert read_config(tmp_path, QuickstartCommand) == QuickstartCommand()
    size = path.read_bytes().index(b"baseline:\n")
    assert refused(path, size, lambda folder: read_config(folder, QuickstartCommand))


def test_overrides_of_a_sweep_that_were_cut_at_any_byte_are_refused(tmp_path):
    write_overrides(tmp_path, ["seed=1,2", "model.width=8"])
    path = tmp_path / OVERRIDES
    assert read_overrides(tmp_path) == ["seed=1,2", "model.width=8"]
    sizes = range(path.stat().st_size)
    assert [size for size in sizes if not refused(path, size, read_overrides)] == []


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_a_run_whose_settings_were_cut_neither_goes_on_nor_is_evaluated(command, forked):
    """What is left is YAML with the steps, and without all that follows."""
    assert forked("train", "run=r", "train.steps=10", does={"all": "crash"}).code == 1
    path = forked.folder / "r" / CONFIG
    path.write_text(path.read_text()[: path.read_text().index("  batch:")])
    told = forked(command, "run=r", *(["resume=true"] if command == "train" else []))
    assert told.code == 2 and not told.calls
    assert f"r/{CONFIG} {CUT}" in told.stderr and told.stderr.count("\n") == 1
