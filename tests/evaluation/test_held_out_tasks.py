"""Evaluation tasks are held out: no task of training, between or beyond those of training."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import envs
from agentic_transformer.config import DataConfig, EvalConfig
from agentic_transformer.contexts import training_data
from agentic_transformer.errors import UserError
from agentic_transformer.evaluation import conditions
from agentic_transformer.evaluation.conditions import evaluation_tasks
from agentic_transformer.evaluation.evaluate import records_settings
from agentic_transformer.evaluation.results_folder import own_folder
from agentic_transformer.validation import check_held_out
from tests.seeds import SEED


@pytest.mark.parametrize("held_out", ["between", "beyond"])
@pytest.mark.parametrize("name", ["cheetah_speed", "point_mass_goal", "jaco_goal"])
def test_no_training_task_is_evaluated(name, held_out, monkeypatch):
    """Even if both are drawn from one source, which would give the same tasks."""
    for module in (training_data, conditions):
        monkeypatch.setattr(module, "stream", lambda *_: np.random.default_rng(SEED))
    data, config = DataConfig(tasks=30), EvalConfig(tasks=30, held_out=held_out)
    training = training_data.training_tasks(name, data)
    tasks = evaluation_tasks(name, config, 0, data)
    assert len(set(tasks)) == 30
    assert not set(tasks) & set(training)


def test_a_finite_family_is_evaluated_on_its_members():
    tasks = evaluation_tasks("walker_any", EvalConfig(tasks=8), SEED, DataConfig())
    assert set(tasks) == set(envs.members("walker_any"))


def test_nothing_lies_beyond_a_task_without_parameters():
    with pytest.raises(UserError, match="allowed: eval.held_out=between"):
        check_held_out("walker_any", EvalConfig(held_out="beyond"))
    with pytest.raises(ValueError, match="no member is held out"):
        evaluation_tasks("walker_run", EvalConfig(held_out="beyond"), 0, DataConfig())
    check_held_out("cheetah_speed", EvalConfig(held_out="beyond"))


def test_evaluations_of_earlier_versions_are_found_again():
    """What they did is not a difference of settings; another choice is."""
    no_data = SimpleNamespace(data=None, hypotheses=None)
    plain = records_settings(EvalConfig(), DataConfig(length=9), "checkpoint", no_data)
    assert not {"eval.held_out", "eval.window", "data.length"} & plain.keys()
    beyond = records_settings(EvalConfig(held_out="beyond"), DataConfig(), "checkpoint", no_data)
    assert beyond == plain | {"eval.held_out": "beyond"}
    in_another_order = dict(reversed(beyond.items()))
    assert own_folder(Path("run"), in_another_order) == own_folder(Path("run"), beyond)
    assert own_folder(Path("run"), plain) != own_folder(Path("run"), beyond)
