"""Evaluates a trained run with a growing context: `python -m experiments.evaluate run=<run folder>`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentic_transformer.config import EvaluateCommand, TrainCommand
from experiments.harness import cli, provenance

if TYPE_CHECKING:
    from tqdm import tqdm

    import envs
    from agentic_transformer.evaluation import Attempt, Evaluation
    from experiments.harness.parts import Parts

PICTURED_TASKS = 5
FRAMES_PER_SECOND = 6


def main(config: EvaluateCommand, run: Path) -> None:
    """Rollouts under every condition -> records, then tables, figures and a video, in the run's folder."""
    from experiments.reports.presentation import present

    evaluate(config, run)
    present([run], run)


def evaluate(config: EvaluateCommand, run: Path) -> None:
    """Writes `records.csv`, and of the first few tasks `rollouts.npz` and a video, into the run's folder.

    A condition that is finished is kept: after a kill the same evaluation of the same checkpoint goes on with the next one.

    Raises:
        SettingError: the run cannot be read, or another process evaluates it.
    """
    from tqdm import tqdm

    from agentic_transformer.ceilings import CEILINGS
    from agentic_transformer.checkpoint import Checkpoints
    from agentic_transformer.evaluation import Evaluation, evaluation_tasks
    from agentic_transformer.mesh import make_mesh
    from experiments.harness import run_folder
    from experiments.harness.data import evaluation_data, training_data
    from experiments.harness.parts import Parts

    trained = run_folder.read_config(run, TrainCommand)
    checkpoints = Checkpoints(run)
    step = checkpoints.find(config.checkpoint)
    print(f"checkpoint: {checkpoints.folder / str(step)}", flush=True)
    mesh = make_mesh(config.mesh.ring) if config.mesh.ring > 1 else None
    policy, digest = checkpoints.policy(step, mesh), checkpoints.digest(step)
    checkpoints.close()
    tasks = evaluation_tasks(trained.task, config.eval, trained.seed)
    evaluation = Evaluation(policy, tasks, config.eval)
    if {"dataset", *CEILINGS} & set(evaluation.conditions()):
        evaluation.data = evaluation_data(trained.task, trained.data, tasks)
    if {*CEILINGS} & set(evaluation.conditions()):
        evaluation.hypotheses = training_data(trained.task, trained.data).returns

    place = run / "evaluate"
    place.mkdir(exist_ok=True)
    with run_folder.lock(place):
        parts = Parts(place / "unfinished", _settings(config, trained, step, digest))
        total = len(evaluation.conditions()) * evaluation.longest
        with tqdm(total=total, desc=f"evaluate {trained.agent.name}", unit="attempt", mininterval=1) as bar:
            for condition in evaluation.conditions():
                bar.set_postfix(condition=condition, refresh=False)
                if parts.has(*_files(condition)):
                    bar.write(f"{condition}: kept from an evaluation that did not finish")
                    bar.update(evaluation.longest)
                else:
                    _evaluate(evaluation, condition, parts, bar)
        _conclude(run, evaluation.conditions(), parts)
    if config.eval.video and any(map(_pictured, evaluation.conditions())):
        save_video(run, tasks[0], config.eval.trajectories)


def _pictured(condition: str) -> bool:
    """Whether a condition's attempts are kept for pictures: what the agent, or the baseline, does on its own."""
    from agentic_transformer.statistics import BASELINES

    return condition in ("own", *BASELINES)


def _files(condition: str) -> list[str]:
    """The parts that a condition leaves."""
    return [f"{condition}.csv", *(["rollouts.npz"] if _pictured(condition) else [])]


def _settings(config: EvaluateCommand, trained: TrainCommand, step: int, digest: str) -> dict[str, Any]:
    """All that the records depend on: the agent by its checkpoint, what is asked of it, the code."""
    asked = {f"eval.{key}": value for key, value in vars(config.eval).items() if key != "video"}
    data = {f"data.{key}": value for key, value in vars(trained.data).items()}
    code = provenance.collect([], seeds={})
    made_with = {key: code[key] for key in ("commit", "python", "packages")} | {"changes": provenance.changes()}
    return {"checkpoint": f"{step} {digest}"} | asked | data | made_with


def _evaluate(evaluation: Evaluation, condition: str, parts: Parts, bar: tqdm) -> None:
    """Runs one condition and keeps what comes of it."""
    import pandas as pd

    records, shown = [], []
    for attempt in evaluation.attempts(condition):
        records.append(evaluation.records(condition, attempt))
        if _pictured(condition):
            shown.append(attempt)
        bar.update()
    if shown:
        parts.put("rollouts.npz", lambda path: save_rollouts(path, evaluation.tasks[:PICTURED_TASKS], shown))
    parts.put(f"{condition}.csv", lambda path: pd.concat(records).to_csv(path, index=False))


def _conclude(run: Path, conditions: Sequence[str], parts: Parts) -> None:
    """Puts the results into the run's folder, in place of an earlier evaluation's."""
    import pandas as pd

    # As text: what was written once is not rounded again.
    records = [pd.read_csv(parts.folder / f"{condition}.csv", dtype=str, keep_default_na=False) for condition in conditions]
    parts.put("records.csv", lambda path: pd.concat(records).to_csv(path, index=False))
    if parts.has("rollouts.npz"):
        parts.take("rollouts.npz", run / "rollouts.npz")
    else:
        for name in ("rollouts.npz", "attempts.png", "attempts.mp4"):
            (run / name).unlink(missing_ok=True)
    parts.take("records.csv", run / "records.csv")
    parts.remove()


def save_rollouts(path: Path, tasks: Sequence[envs.Task], attempts: Sequence[Attempt]) -> None:
    """Keeps what the agent did on some tasks in an npz file, from which `experiments.reports.figures.attempts` draws."""
    import numpy as np

    import envs

    arrays = {
        "physics": np.stack([attempt.physics[: len(tasks)] for attempt in attempts], axis=1),
        "reward": np.stack([attempt.trajectory.reward[: len(tasks)] for attempt in attempts], axis=1),
        "task_id": np.array([task.id for task in tasks]),
    }
    if (seen := envs.plane(tasks[0])) is not None:
        goals = np.array([envs.plane(task).goal for task in tasks])
        arrays |= {"goal": goals, "radius": np.array(seen.radius), "walls": np.array(seen.walls).reshape(-1, 2)}
    np.savez_compressed(path, **arrays)


def save_video(run: Path, task: envs.Task, trajectories: Sequence[int]) -> None:
    """Draws attempts on the first task one after another to `attempts.mp4`; says in one line where that cannot be.

    Args:
        run: folder with `rollouts.npz`.
        task: the first one.
        trajectories: numbers of the attempts.
    """
    import warnings

    import numpy as np

    import envs

    with np.load(run / "rollouts.npz") as rollouts:
        states = np.concatenate([rollouts["physics"][0, number - 1] for number in sorted(set(trajectories))])
    try:
        with warnings.catch_warnings():
            # jax warns of any fork; the child that draws becomes a program of its own at once.
            warnings.filterwarnings("ignore", message="os.fork", category=RuntimeWarning)
            print(envs.write_video(run / "attempts.mp4", task, states, fps=FRAMES_PER_SECOND), flush=True)
    except RuntimeError as error:
        print(f"no video: {error}", flush=True)


if __name__ == "__main__":
    cli.run(main, EvaluateCommand)
