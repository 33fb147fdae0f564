"""Evaluates a trained run: from its checkpoint to `records.csv`."""

from __future__ import annotations

import hashlib
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd
from jax.sharding import Mesh
from tqdm import tqdm

import envs
from agentic_transformer.agents.load import build_agent
from agentic_transformer.config import (
    BASELINES,
    DataConfig,
    EvalConfig,
    EvaluateCommand,
    TrainCommand,
)
from agentic_transformer.contexts.relabelled import RelabelledDataset
from agentic_transformer.contexts.training_data import (
    evaluation_data,
    relabel_mode,
    training_tasks,
)
from agentic_transformer.errors import listing, nearest, raise_config_error
from agentic_transformer.evaluation import results_folder
from agentic_transformer.evaluation.conditions import (
    NEED_DATA,
    baseline_condition,
    conditions_of,
    evaluation_tasks,
)
from agentic_transformer.evaluation.oracles import ORACLES
from agentic_transformer.evaluation.partial_results import PartialResults
from agentic_transformer.evaluation.rollouts import Evaluation
from agentic_transformer.evaluation.stored_rollouts import save_rollouts
from agentic_transformer.run_files import lock
from agentic_transformer.training.checkpoint_reader import CheckpointReader
from agentic_transformer.training.learned_data import describe_change
from agentic_transformer.training.sharding import DATA, make_mesh
from datasets.progress import progress_bar
from datasets.relabelling import STORED


def evaluate(
    config: EvaluateCommand,
    run: Path,
    trained: TrainCommand,
    code: dict[str, Any] | None = None,
    again: bool = True,
) -> Path:
    """Writes `records.csv`, and `rollouts.npz` of the first few tasks, for a trained run.

    The results go into the run's folder or into `config.out`. Records that were made with other
    settings stay there: then the results go to a folder of their own, see `results_folder`.
    A finished condition is kept: after a kill, the same evaluation of the same checkpoint goes on
    with the next condition. All checks come before the agent acts.

    Args:
        config: what to evaluate.
        run: folder of the trained run.
        trained: settings of the trained run.
        code: what the records depend on besides settings (commit, versions); values for JSON.
            Unfinished conditions that other code made are dropped.
        again: whether to repeat an evaluation that is finished.

    Returns:
        The folder of the results.

    Raises:
        ValueError: the run cannot be read, a condition cannot be evaluated to its end, or another
            process works on the same evaluation.
    """
    base = Path(config.out) if config.out else run
    with results_folder.made(base, run):
        evaluation, checkpoint = load_evaluation(config, run, trained)
    settings = records_settings(config.eval, trained.data, checkpoint, evaluation)
    if evaluation.task != trained.task:
        settings["task"] = evaluation.task
    finished = results_folder.find(base, settings)
    if finished and not again:
        return finished
    work = results_folder.own_folder(base, settings)
    work.mkdir(parents=True, exist_ok=True)
    with lock(work):
        parts = PartialResults(work / "unfinished", settings | (code or {}))
        _evaluate_conditions(evaluation, parts)
        _join_records(evaluation.conditions(), parts)
        folder = results_folder.claim(base, settings, asdict(config), run)
        _move_results(parts, folder)
    if folder != work:
        shutil.rmtree(work)
    return folder


def load_evaluation(
    config: EvaluateCommand, run: Path, trained: TrainCommand
) -> tuple[Evaluation, str]:
    """Loads the agent and its data, and checks that every condition can be evaluated.

    Data are loaded if a condition needs them. Else a line says which columns stay empty.

    Args:
        config: what to evaluate.
        run: folder of the trained run.
        trained: settings of the trained run.

    Returns:
        The evaluation, and the agent's checkpoint: its step and digest.

    Raises:
        ValueError: there is no such checkpoint, the data are missing or another agent's, or a
            condition cannot be evaluated.
    """
    checkpoints = CheckpointReader(run)
    step = checkpoints.find(config.checkpoint)
    print(f"checkpoint: {checkpoints.path(step)}", flush=True)
    mesh = make_mesh(config.mesh.ring) if config.mesh.ring > 1 else None
    _check_divides(config.eval, mesh)
    agent, digest = build_agent(checkpoints, step, mesh), checkpoints.digest(step)
    task = evaluated_task(config, trained)
    tasks = evaluation_tasks(task, config.eval, trained.seed, trained.data)
    conditions = set(conditions_of(agent.spec.agent, config.eval, task))
    data = hypotheses = None
    if conditions & set(NEED_DATA):
        # The data may have moved since training. Rewards stored in the episodes are of one task.
        elsewhere = task != trained.task and trained.data.relabel == STORED
        place = replace(
            trained.data,
            root=config.data.root or trained.data.root,
            cache=config.data.cache or trained.data.cache,
            relabel="exorl" if elsewhere else trained.data.relabel,
        )
        data = evaluation_data(task, place, tasks)
        if change := describe_change(run, data.store):
            print(
                f"warning: {change}: what comes from the data is not what the run learned from",
                file=sys.stderr,
                flush=True,
            )
        if conditions & set(ORACLES):
            # The store is open already; to open it again would print what it holds twice.
            hypotheses = RelabelledDataset(
                data.store, training_tasks(task, place), relabel_mode(task, place)
            ).returns
    elif not baseline_condition(agent.spec.agent):
        # Not for a baseline: its summary takes best returns from records of an agent beside it.
        print(
            "no condition reads the data: best_return, found and repeat_miss_rate stay empty; "
            f"eval.conditions with one of {', '.join(NEED_DATA)} fills them",
            flush=True,
        )
    evaluation = Evaluation(agent, tasks, config.eval, data, hypotheses, task)
    evaluation.check()
    return evaluation, f"{step} {digest}"


def evaluated_task(config: EvaluateCommand, trained: TrainCommand) -> str:
    """Returns the name of the task to evaluate on.

    Raises:
        ValueError: it is of another domain than the one that the agent was trained on.
    """
    if config.task is None:
        return trained.task
    asked, domain = envs.task(config.task), envs.task(trained.task).domain
    if asked.domain != domain:
        names = [name for name in envs.tasks() if envs.task(name).domain == domain]
        raise_config_error(
            f"task={config.task} is of domain {asked.domain}, the run's {trained.task} of {domain}",
            listing(names),
            nearest(config.task, names),
        )
    return config.task


def _check_divides(config: EvalConfig, mesh: Mesh | None) -> None:
    """Raises a ValueError unless the tasks, which are a batch, divide over the mesh."""
    if mesh is not None and config.tasks % mesh.shape[DATA]:
        raise ValueError(
            f"eval.tasks={config.tasks} does not divide over the {mesh.shape[DATA]} devices of the "
            f"data axis (mesh.ring={mesh.size // mesh.shape[DATA]} of {mesh.size}); "
            "allowed: a multiple"
        )


def records_settings(
    config: EvalConfig, data: DataConfig, checkpoint: str, evaluation: Evaluation
) -> dict[str, Any]:
    """Returns everything that the records depend on, except the code.

    Args:
        config: settings of the evaluation.
        data: settings of the training data.
        checkpoint: identifies the agent.
        evaluation: its data enter by a digest of their returns.

    Returns:
        Values for JSON, by setting.
    """
    asked = {f"eval.{key}": value for key, value in vars(config).items() if key != "video"}
    if config.held_out == EvalConfig().held_out:
        del asked["eval.held_out"]  # so records from before this setting still match
    if config.window is None:
        del asked["eval.window"]  # likewise
    elsewhere = ("root", "cache", "length")  # where the data lie, how they were collected
    kind = {f"data.{key}": value for key, value in vars(data).items() if key not in elsewhere}
    returns = [] if evaluation.data is None else [evaluation.data.returns]
    returns += [] if evaluation.hypotheses is None else [evaluation.hypotheses]
    digest = hashlib.sha256(b"".join(array.tobytes() for array in returns)).hexdigest()
    return (
        {"checkpoint": checkpoint}
        | asked
        | kind
        | {"returns of the data": digest if returns else None}
    )


def _evaluate_conditions(evaluation: Evaluation, parts: PartialResults) -> None:
    """Evaluates the conditions that are not finished yet, and keeps each of them."""
    conditions = evaluation.conditions()
    with progress_bar(
        f"evaluate {evaluation.spec.agent.name}",
        unit="attempt",
        show=True,
        total=sum(map(evaluation.count, conditions)),
    ) as bar:
        for condition in conditions:
            bar.set_postfix(condition=condition, refresh=False)
            names = [f"{condition}.csv"]
            names += [results_folder.ROLLOUTS] if _is_pictured(condition) else []
            if parts.has(*names):
                bar.write(f"{condition}: kept from an evaluation that did not finish")
                bar.update(evaluation.count(condition))
            else:
                _evaluate_condition(evaluation, condition, parts, bar)


def _evaluate_condition(
    evaluation: Evaluation, condition: str, parts: PartialResults, bar: tqdm
) -> None:
    """Runs one condition, and keeps its records and its attempts for pictures."""
    records, pictured = [], []
    for attempt in evaluation.attempts(condition):
        records.append(evaluation.records(condition, attempt))
        if _is_pictured(condition):
            pictured.append(attempt)
        bar.update()
    if pictured:
        parts.put(
            results_folder.ROLLOUTS, lambda path: save_rollouts(path, evaluation.tasks, pictured)
        )
    # The records come last: with them the condition is finished.
    parts.put(f"{condition}.csv", lambda path: pd.concat(records).to_csv(path, index=False))


def _is_pictured(condition: str) -> bool:
    """Returns whether pictures show a condition: what the agent, or the baseline, does alone."""
    return condition in ("own", *BASELINES)


def _join_records(conditions: Sequence[str], parts: PartialResults) -> None:
    """Adds the part `records.csv`, with the records of all conditions."""
    # Read as text, so that nothing is rounded a second time.
    records = [
        pd.read_csv(parts.folder / f"{condition}.csv", dtype=str, keep_default_na=False)
        for condition in conditions
    ]
    parts.put("records.csv", lambda path: pd.concat(records).to_csv(path, index=False))


def _move_results(parts: PartialResults, folder: Path) -> None:
    """Moves the results to their final folder."""
    results_folder.remove_derived(folder)
    if parts.has(results_folder.ROLLOUTS):
        parts.take(results_folder.ROLLOUTS, folder / results_folder.ROLLOUTS)
    parts.take("records.csv", folder / "records.csv")
    parts.remove()
