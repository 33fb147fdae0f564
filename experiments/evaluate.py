"""Evaluates a trained run with a growing context: `python -m experiments.evaluate run=<run
folder>`.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentic_transformer.config import EvalConfig, EvaluateCommand, TrainCommand
from experiments.cli import app as cli
from experiments.cli import provenance

if TYPE_CHECKING:
    from jax.sharding import Mesh
    from tqdm import tqdm

    import envs
    from agentic_transformer.evaluation.rollouts import Attempt, Evaluation
    from experiments.cli.parts import Parts

PICTURED_TASKS = 5
FRAMES_PER_SECOND = 6


def main(config: EvaluateCommand, run: Path) -> Path:
    """Rollouts under every condition -> records, then tables, figures and a video; returns their
    folder.
    """
    from experiments.reports.presentation import present

    place = evaluate(config, run)
    present([place], place)
    save_video(config, run, place)
    return place


def evaluate(config: EvaluateCommand, run: Path, anew: bool = True) -> Path:
    """Writes `records.csv`, and `rollouts.npz` of the first few tasks, into the run's folder or
    `config.out`.

    Records made with other settings stay: then the results go to a folder of their own, see
    `evaluation_folder`. A condition that is finished is kept: after a kill the same evaluation of
    the same checkpoint goes on with the next one. All that can be known to fail is found before the
    agent acts.

    Args:
        config: what is asked for.
        run: folder of the trained run.
        anew: whether to evaluate again what has been evaluated with these settings.

    Returns:
        the folder of the results.

    Raises:
        ValueError: the run cannot be read, a condition cannot be evaluated to its end, or another
            process evaluates the same.
    """
    from tqdm import tqdm

    from experiments.cli import evaluation_folder, run_folder
    from experiments.cli.parts import Parts

    trained = run_folder.read_config(run, TrainCommand)
    with _base(config, run) as base:
        evaluation, checkpoint = _prepare(config, run, trained)
    settings = _settings(config, trained, checkpoint, evaluation)
    there = evaluation_folder.find(base, settings)
    if there and not anew:
        return there
    work = evaluation_folder.own_folder(base, settings)
    work.mkdir(parents=True, exist_ok=True)
    with run_folder.lock(work):
        parts = Parts(work / "unfinished", settings | _code())
        total = len(evaluation.conditions()) * evaluation.longest
        with tqdm(
            total=total, desc=f"evaluate {trained.agent.name}", unit="attempt", mininterval=1
        ) as bar:
            for condition in evaluation.conditions():
                bar.set_postfix(condition=condition, refresh=False)
                if parts.has(*_files(condition)):
                    bar.write(f"{condition}: kept from an evaluation that did not finish")
                    bar.update(evaluation.longest)
                else:
                    _evaluate(evaluation, condition, parts, bar)
        place = evaluation_folder.claim(base, settings, asdict(config), run)
        _conclude(place, evaluation.conditions(), parts)
    if place != work:
        shutil.rmtree(work)
    return place


@contextmanager
def _base(config: EvaluateCommand, run: Path) -> Iterator[Path]:
    """Makes the folder that results are to go to, and takes it back after an error.

    Raises:
        ValueError: it cannot be made, or it is another run's.
    """
    base = Path(config.out) if config.out else run
    made = [folder for folder in (base / "evaluate", base) if not folder.exists()]
    if base.resolve() != run.resolve() and (base / "checkpoints").exists():
        raise ValueError(f"out={base} is the folder of another run; name another folder")
    try:
        (base / "evaluate").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"out={base} cannot be written to ({error.strerror}); out=<folder> names another"
        ) from None
    try:
        yield base
    except BaseException:
        for folder in made:
            with suppress(OSError):  # another process uses it
                folder.rmdir()
        raise


def _prepare(config: EvaluateCommand, run: Path, trained: TrainCommand) -> tuple[Evaluation, str]:
    """The evaluation, and which checkpoint its agent is of.

    Raises:
        ValueError: there is no such checkpoint, the data are missing or another agent's, or a
            condition cannot be evaluated.
    """
    from agentic_transformer.agents.load import build_agent
    from agentic_transformer.contexts.training_data import evaluation_data, training_data
    from agentic_transformer.evaluation.oracles import ORACLES
    from agentic_transformer.evaluation.rollouts import Evaluation, evaluation_tasks
    from agentic_transformer.training.checkpoint import Checkpoints
    from agentic_transformer.training.sharding import make_mesh

    checkpoints = Checkpoints(run)
    step = checkpoints.find(config.checkpoint)
    print(f"checkpoint: {checkpoints.folder / str(step)}", flush=True)
    mesh = make_mesh(config.mesh.ring) if config.mesh.ring > 1 else None
    _check_divides(config.eval, mesh)
    policy, digest = build_agent(checkpoints, step, mesh), checkpoints.digest(step)
    checkpoints.close()
    tasks = evaluation_tasks(trained.task, config.eval, trained.seed)
    evaluation = Evaluation(policy, tasks, config.eval)
    data = replace(
        trained.data,
        root=config.data.root or trained.data.root,
        cache=config.data.cache or trained.data.cache,
    )
    if {"dataset", *ORACLES} & set(evaluation.conditions()):
        evaluation.data = evaluation_data(trained.task, data, tasks)
    if {*ORACLES} & set(evaluation.conditions()):
        evaluation.hypotheses = training_data(trained.task, data).returns
    evaluation.check()
    return evaluation, f"{step} {digest}"


def _check_divides(config: EvalConfig, mesh: Mesh | None) -> None:
    """Raises a ValueError unless the tasks, which are a batch, can be laid out over the mesh."""
    from agentic_transformer.training.sharding import DATA

    if mesh is not None and config.tasks % mesh.shape[DATA]:
        raise ValueError(
            f"eval.tasks={config.tasks} does not divide over the {mesh.shape[DATA]} devices of the data axis "
            f"(mesh.ring={mesh.size // mesh.shape[DATA]} of {mesh.size}); allowed: a multiple"
        )


def _settings(
    config: EvaluateCommand, trained: TrainCommand, checkpoint: str, evaluation: Evaluation
) -> dict[str, Any]:
    """All that the records depend on but the code: the agent, by its checkpoint; what is asked of
    it; the data, by returns.
    """
    asked = {f"eval.{key}": value for key, value in vars(config.eval).items() if key != "video"}
    data = {
        f"data.{key}": value
        for key, value in vars(trained.data).items()
        if key not in ("root", "cache")
    }
    used = [
        returns
        for returns in (evaluation.data and evaluation.data.returns, evaluation.hypotheses)
        if returns is not None
    ]
    digest = (
        hashlib.sha256(b"".join(returns.tobytes() for returns in used)).hexdigest()
        if used
        else None
    )
    return {"checkpoint": checkpoint} | asked | data | {"returns of the data": digest}


def _code() -> dict[str, Any]:
    """What the records depend on besides settings."""
    code = provenance.collect([], seeds={})
    return {key: code[key] for key in ("commit", "python", "packages")} | {
        "changes": provenance.changes()
    }


def _pictured(condition: str) -> bool:
    """Whether a condition's attempts are kept for pictures: what the agent, or the baseline, does
    on its own.
    """
    from agentic_transformer.evaluation.statistics import BASELINES

    return condition in ("own", *BASELINES)


def _files(condition: str) -> list[str]:
    """The parts that a condition leaves."""
    return [f"{condition}.csv", *(["rollouts.npz"] if _pictured(condition) else [])]


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
        parts.put(
            "rollouts.npz",
            lambda path: save_rollouts(path, evaluation.tasks[:PICTURED_TASKS], shown),
        )
    parts.put(f"{condition}.csv", lambda path: pd.concat(records).to_csv(path, index=False))


def _conclude(place: Path, conditions: Sequence[str], parts: Parts) -> None:
    """Puts the results where they belong, in place of those of the same evaluation made before, and
    of all drawn from them.
    """
    import pandas as pd

    from experiments.reports.presentation import DERIVED

    # As text: what was written once is not rounded again.
    records = [
        pd.read_csv(parts.folder / f"{condition}.csv", dtype=str, keep_default_na=False)
        for condition in conditions
    ]
    parts.put("records.csv", lambda path: pd.concat(records).to_csv(path, index=False))
    for name in ("rollouts.npz", "attempts.mp4", *DERIVED):
        (place / name).unlink(missing_ok=True)
    if parts.has("rollouts.npz"):
        parts.take("rollouts.npz", place / "rollouts.npz")
    parts.take("records.csv", place / "records.csv")
    parts.remove()


def save_rollouts(path: Path, tasks: Sequence[envs.Task], attempts: Sequence[Attempt]) -> None:
    """Keeps what the agent did on some tasks in an npz file, from which
    `experiments.reports.figures.attempts` draws.
    """
    import numpy as np

    import envs

    arrays = {
        "physics": np.stack([attempt.physics[: len(tasks)] for attempt in attempts], axis=1),
        "reward": np.stack(
            [attempt.trajectory.reward[: len(tasks)] for attempt in attempts], axis=1
        ),
        "task_id": np.array([task.id for task in tasks]),
    }
    if (seen := envs.top_down_view(tasks[0])) is not None:
        goals = np.array([envs.top_down_view(task).goal for task in tasks])
        arrays |= {
            "goal": goals,
            "radius": np.array(seen.radius),
            "walls": np.array(seen.walls).reshape(-1, 2),
        }
    np.savez_compressed(path, **arrays)


def save_video(config: EvaluateCommand, run: Path, place: Path) -> None:
    """Draws attempts on the first task one after another to `attempts.mp4`; says in one line why
    where that cannot be.

    Args:
        config: of the evaluation; without `eval.video` nothing is drawn.
        run: folder of the trained run.
        place: folder of the results; without `rollouts.npz` there is nothing to draw.
    """
    from experiments.reports.presentation import picture

    if (
        config.eval.video
        and (place / "rollouts.npz").exists()
        and picture(place / "attempts.mp4", _video(config, run, place))
    ):
        print(place / "attempts.mp4", flush=True)


def _video(config: EvaluateCommand, run: Path, place: Path) -> Callable[[Path], object]:
    """A function that draws the video to a path."""

    def draw(path: Path) -> None:
        import warnings

        import numpy as np

        import envs
        from agentic_transformer.evaluation.rollouts import evaluation_tasks
        from experiments.cli import run_folder

        trained = run_folder.read_config(run, TrainCommand)
        task = evaluation_tasks(trained.task, config.eval, trained.seed)[0]
        with np.load(place / "rollouts.npz") as rollouts:
            states = np.concatenate(
                [
                    rollouts["physics"][0, number - 1]
                    for number in sorted(set(config.eval.trajectories))
                ]
            )
        with warnings.catch_warnings():
            # jax warns of any fork; the child that draws becomes a program of its own at once.
            warnings.filterwarnings("ignore", message="os.fork", category=RuntimeWarning)
            envs.write_video(path, task, states, fps=FRAMES_PER_SECOND)

    return draw


if __name__ == "__main__":
    cli.run(main, EvaluateCommand)
