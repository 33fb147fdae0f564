"""Evaluates a trained run with a growing context: `python -m experiments.evaluate run=<run folder>`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from agentic_transformer.config import EvaluateCommand, TrainCommand
from experiments import cli

if TYPE_CHECKING:
    import envs
    from agentic_transformer.evaluation import Attempt

PICTURED_TASKS = 5
FRAMES_PER_SECOND = 6


def main(config: EvaluateCommand, run: Path) -> None:
    """Rollouts under every condition -> records, then tables, figures and a video, in the run's folder."""
    from experiments.presentation import present

    evaluate(config, run)
    present([run], run)


def evaluate(config: EvaluateCommand, run: Path) -> None:
    """Writes `records.csv`, and of the first few tasks `rollouts.npz` and a video, into the run's folder."""
    import pandas as pd
    from tqdm import tqdm

    from agentic_transformer.checkpoint import load_policy
    from agentic_transformer.evaluation import Evaluation, evaluation_tasks
    from agentic_transformer.statistics import BASELINES
    from experiments.data import evaluation_data
    from experiments.run_folder import read_config

    trained = read_config(run, TrainCommand)
    policy = load_policy(run)
    tasks = evaluation_tasks(trained.task, config.eval, trained.seed)
    evaluation = Evaluation(policy, tasks, config.eval)
    if "dataset" in evaluation.conditions():
        evaluation.data = evaluation_data(trained.task, trained.data, tasks)

    records, shown = [], []
    total = len(evaluation.conditions()) * evaluation.longest
    with tqdm(total=total, desc=f"evaluate {trained.agent.name}", unit="attempt", mininterval=1) as bar:
        for condition in evaluation.conditions():
            bar.set_postfix(condition=condition, refresh=False)
            for attempt in evaluation.attempts(condition):
                records.append(evaluation.records(condition, attempt))
                if condition in ("own", *BASELINES):
                    shown.append(attempt)
                bar.update()
    # Renamed into place when it is whole: a kill leaves the records of an earlier evaluation as they were.
    partial = run / "records.csv.partial"
    pd.concat(records).to_csv(partial, index=False)
    partial.replace(run / "records.csv")
    if shown:
        save_rollouts(run, tasks[:PICTURED_TASKS], shown)
        if config.eval.video:
            save_video(run, tasks[0], [attempt for attempt in shown if attempt.number in config.eval.trajectories])


def save_rollouts(run: Path, tasks: Sequence[envs.Task], attempts: Sequence[Attempt]) -> None:
    """Keeps what the agent did on some tasks in `rollouts.npz`, from which `experiments.figures.attempts` draws."""
    import numpy as np

    arrays = {
        "physics": np.stack([attempt.physics[: len(tasks)] for attempt in attempts], axis=1),
        "reward": np.stack([attempt.trajectory.reward[: len(tasks)] for attempt in attempts], axis=1),
        "task_id": np.array([task.id for task in tasks]),
        "planar": np.array(tasks[0].domain.startswith("point_mass")),
    }
    if "goal" in tasks[0].params:
        arrays["goal"] = np.array([task.params["goal"] for task in tasks])
    np.savez_compressed(run / "rollouts.npz", **arrays)


def save_video(run: Path, task: envs.Task, attempts: Sequence[Attempt]) -> None:
    """Draws the given attempts on the first task one after another to `attempts.mp4`; says in one line where that cannot be."""
    import warnings

    import numpy as np

    import envs

    states = np.concatenate([attempt.physics[0] for attempt in attempts])
    try:
        with warnings.catch_warnings():
            # jax warns of any fork; the child that draws becomes a program of its own at once.
            warnings.filterwarnings("ignore", message="os.fork", category=RuntimeWarning)
            print(envs.write_video(run / "attempts.mp4", task, states, fps=FRAMES_PER_SECOND), flush=True)
    except RuntimeError as error:
        print(f"no video: {error}", flush=True)


if __name__ == "__main__":
    cli.run(main, EvaluateCommand)
