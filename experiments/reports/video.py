"""Draws a video of an agent's attempts from its stored rollouts."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np

import envs
from agentic_transformer.config import EvaluateCommand, TrainCommand
from agentic_transformer.evaluation.conditions import evaluation_tasks
from agentic_transformer.evaluation.evaluate import evaluated_task
from agentic_transformer.evaluation.results_folder import ROLLOUTS, VIDEO
from experiments.cli.run_folder import read_config
from experiments.reports.pictures import picture

FRAMES_PER_SECOND = 6


def save_video(config: EvaluateCommand, run: Path, folder: Path) -> None:
    """Draws attempts on the first task, one after another, to `attempts.mp4`.

    If the video cannot be drawn, one line says why.

    Args:
        config: settings of the evaluation; without `eval.video` nothing is drawn.
        run: folder of the trained run.
        folder: folder of the results; without stored rollouts there is nothing to draw.
    """

    def draw(path: Path) -> None:
        trained = read_config(run, TrainCommand)
        name = evaluated_task(config, trained)
        task = evaluation_tasks(name, config.eval, trained.seed, trained.data)[0]
        numbers = sorted(set(config.eval.trajectories))
        with np.load(folder / ROLLOUTS) as rollouts:
            # (attempts, T + 1, P) of the first task -> (attempts x (T + 1), P)
            states = np.concatenate([rollouts["physics"][0, number - 1] for number in numbers])
        with warnings.catch_warnings():
            # jax warns of any fork; the child that draws becomes a program of its own at once.
            warnings.filterwarnings("ignore", message="os.fork", category=RuntimeWarning)
            envs.write_video(path, task, states, fps=FRAMES_PER_SECOND)

    wanted = config.eval.video and (folder / ROLLOUTS).exists()
    if wanted and picture(folder / VIDEO, draw):
        print(folder / VIDEO, flush=True)
