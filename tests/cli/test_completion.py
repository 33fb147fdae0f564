"""Tab completes commands in the form that the documentation has."""

import shutil
import subprocess
import sys

import pytest

import envs
from experiments import completion
from experiments.cli.completion import completions
from tests.cli.conftest import ROOT
from tests.cli.test_configs import COMMANDS

TRAIN = "python -m experiments.train "


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("python -m experiments.tr", ["experiments.train "]),
        (TRAIN + "model.wi", ["model.width="]),
        (TRAIN + "seed=3 train.st", ["train.steps="]),
        (TRAIN + "model.head=m", ["mixture ", "mse "]),
        (TRAIN + "resume=", ["true ", "false "]),
        (TRAIN + "agent=at_p", ["at_prefix "]),
        (TRAIN + "experiment=se", ["search "]),
        (TRAIN + "task=walker_wa", ["walker_walk "]),
        (TRAIN + "nothing", []),
        (TRAIN + "nothing=", []),
        (TRAIN + "run=", []),  # a folder: the shell's own completion
        ("python -m experiments.nothing ", []),
        ("python script.py model.wi", []),
    ],
)
def test_the_last_word_is_completed(line, expected):
    assert completions(line, COMMANDS) == expected


def test_without_a_beginning_groups_stand_for_their_settings():
    shown = completions(TRAIN, COMMANDS)
    assert {"task=", "seed=", "model.", "model=", "train.", "experiment="} <= set(shown)
    assert len(shown) < 30
    assert completions(TRAIN + "task=", COMMANDS) == [f"{name} " for name in envs.tasks()]


def test_help_says_how_it_is_used(capsys):
    completion.main(["--help"])
    assert 'eval "$(python -m experiments.completion)"' in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("bash"), reason="there is no bash")
def test_bash_completes(tmp_path):
    line = f"{sys.executable} -m experiments.completion"
    script = f"""
eval "$({line})"
COMP_LINE='python -m experiments.train model.wi' COMP_POINT=36
_agentic_transformer_completion
printf '%s\\n' "${{COMPREPLY[@]}}"
complete -p python
"""
    done = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines()[0] == "model.width=", done.stderr
    assert "-F _agentic_transformer_completion python" in done.stdout
