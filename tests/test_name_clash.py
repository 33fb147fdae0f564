"""Another package called `datasets`, such as Hugging Face's, is told of in one line."""

import sys

import pytest

import agentic_transformer
from agentic_transformer import name_clash
from agentic_transformer.errors import UserError
from experiments.cli.packages import check_packages


@pytest.fixture
def another(tmp_path, monkeypatch):
    """Another package of this name, which is found before ours until the test has ended."""
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "__init__.py").write_text("def load_dataset(): pass\n")
    names = [name for name in sys.modules if name.split(".")[0] == "datasets"]
    for name in [*names, "agentic_transformer.agents.load"]:
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "datasets" / "__init__.py"
    sys.modules.pop("datasets", None)  # before monkeypatch gives ours back, if it was imported


def test_ours_is_found_to_be_ours():
    assert name_clash.describe_clash() is None
    check_packages()


def test_another_package_is_named_by_commands(another):
    with pytest.raises(UserError, match="not this project's") as told:
        check_packages()
    assert str(another) in str(told.value) and "\n" not in str(told.value)


def test_another_package_is_named_in_python(another, monkeypatch):
    monkeypatch.setitem(agentic_transformer._HOMES, "load", "tests.needs_our_datasets")
    with pytest.raises(ImportError, match="not this project's") as told:
        _ = agentic_transformer.load
    assert str(another) in str(told.value)


def test_a_file_of_ours_that_was_overwritten_is_found(tmp_path, monkeypatch):
    """Installed into one environment, both packages write the same file."""
    ours = name_clash._OURS
    text = ours.read_text().replace("datasets.trajectory_store", "datasets.arrow_dataset")
    (tmp_path / "__init__.py").write_text(text)
    monkeypatch.setattr(name_clash, "_OURS", tmp_path / "__init__.py")
    assert "not this project's" in name_clash.describe_clash()
