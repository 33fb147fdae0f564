"""What a command says of the data it works on."""

import pytest

import datasets
from agentic_transformer.config import DataConfig
from agentic_transformer.contexts.training_data import open_store


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (4, "data: 4 of the 6 episodes in "),
        (9, "data: only 6 episodes are there (data.episodes=9): all are used, from "),
    ],
)
def test_how_many_episodes_are_used_is_said(asked, says, tmp_path, capsys):
    """A collection that was cut short, or a data set of which only a part is drawn."""
    config = DataConfig(root=str(tmp_path), episodes=asked)
    datasets.collect(
        "point_mass_goal",
        datasets.buffer_folder(tmp_path, "point_mass_goal", "pd"),
        episodes=6,
        collector="pd",
    )
    store = open_store("point_mass_goal", config)
    assert store.episodes == min(asked, 6)
    assert says in capsys.readouterr().out
