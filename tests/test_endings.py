"""The end of the interpreter with something left open: it is closed without a word."""

import subprocess
import sys

import pytest

from tests.processes import environment

pytestmark = pytest.mark.slow

LEFT_OPEN = {
    "a store on disk": """
import datasets
datasets.collect(
    "point_mass_goal", "buffer", episodes=2, seed=0, collector="random", progress=False
)
kept = datasets.Store(datasets.build_cache("buffer", progress=False), budget=0)
kept.load([0])
""",
    "environments and their threads": """
import envs
kept = envs.make("point_mass_goal"), envs.make_vec("walker_any", 64)
for env in kept:
    env.reset(seed=0)
    env.step(env.action_space.sample())
""",
    "what a training run holds": """
from pathlib import Path
from agentic_transformer import run_files
from agentic_transformer.training.checkpoint import Checkpoints
from agentic_transformer.training.metrics import MetricsLog
from agentic_transformer.training.loop import prefetch
here = Path.cwd()
batches = prefetch(lambda step: step, 0, 1000)
kept = run_files.lock(here), MetricsLog(here), batches, Checkpoints(here)
kept[0].__enter__(), kept[1].write(1, {"loss": 1.0}), next(kept[2]), kept[3].prepare()
""",
}


@pytest.mark.parametrize("what", LEFT_OPEN)
@pytest.mark.parametrize("holder", ["__main__", "codecs"])
def test_what_is_left_open_is_closed_without_a_word(what, holder, tmp_path):
    """Held by the script, or by a module that lasts longer, and in a cycle."""
    script = (
        f"import os, sys\n{LEFT_OPEN[what]}\n"
        f"cycle = [kept]\ncycle.append(cycle)\nsys.modules[{holder!r}].kept = cycle\n"
    )
    line = [sys.executable, "-c", script]
    done = subprocess.run(
        line, env=environment(MUJOCO_GL="disabled"), cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
