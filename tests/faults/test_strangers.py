"""Runs that others made are read, never obeyed: nothing in them runs code."""

import json
from dataclasses import replace

import pytest

from agentic_transformer.agents.load import make_agent, read_spec
from agentic_transformer.config import AgentConfig, TrainCommand
from agentic_transformer.errors import UserError
from agentic_transformer.run_files import CONFIG
from agentic_transformer.training.checkpoint import Checkpoints
from experiments.cli import run_folder
from tests.small_agents import describe, labelled


@pytest.mark.parametrize(
    "text",
    [
        "task: !!python/object/apply:pathlib.Path.touch "
        "[!!python/object/apply:pathlib.Path [{place}]]",
        "_target_: os.system\n_args_: ['touch {place}']",
        "agent: {{_target_: os.system, command: 'touch {place}'}}",
    ],
)
def test_settings_run_nothing(text, tmp_path):
    place = tmp_path / "touched"
    (tmp_path / CONFIG).write_text(text.format(place=place))
    with pytest.raises(UserError, match="does not hold TrainCommand's settings"):
        run_folder.read_config(tmp_path, TrainCommand)
    assert not place.exists()


@pytest.mark.parametrize(
    "more", [{"_target_": "os.system"}, {"agent": {"__reduce__": "os.system"}}, {"model": []}]
)
def test_a_description_that_is_not_ours_is_refused(more, tmp_path):
    ours = labelled_description(tmp_path).to_dict()
    path = tmp_path / "checkpoints" / "1" / "description" / "metadata"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(ours))
    assert read_spec(Checkpoints(tmp_path), 1).to_dict() == ours
    path.write_text(json.dumps(ours | more))
    with pytest.raises(ValueError, match="not the description of an agent of this version"):
        read_spec(Checkpoints(tmp_path), 1)


def test_a_learner_in_a_runs_folder_is_not_imported(tmp_path):
    """A learner of one's own is looked for where Python looks for every module, and only there."""
    (tmp_path / "brought.py").write_text(f"open({str(tmp_path / 'touched')!r}, 'w')")
    spec = describe(labelled(tmp_path / "data", episodes=4, tasks=2))
    spec = replace(spec, agent=AgentConfig(learner="brought:LEARNER"))
    with pytest.raises(UserError, match="there is no module brought"):
        make_agent(spec, {})
    assert not (tmp_path / "touched").exists()


def labelled_description(folder):
    return describe(labelled(folder / "data", episodes=4, tasks=2))
