"""Makes a buffer in the ExoRL format by running a collector, and says in `metadata.json` how it was
made.
"""

from __future__ import annotations

import json
import os
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

import envs
from datasets.collectors import Collector, collector_class
from datasets.episode import Episode, write_episode
from datasets.fingerprint import fingerprint
from envs import Task

if TYPE_CHECKING:
    from gymnasium.vector import VectorEnv

METADATA = "metadata.json"
_LIBRARIES = ("mujoco", "dm_control", "numpy")


def buffer_folder(root: str | Path, task: str | Task, algo: str) -> Path:
    """`<root>/<domain>/<algo>/buffer`, as ExoRL's archives unpack.

    `task` may also be a domain's name.
    """
    domain = (
        task
        if isinstance(task, str) and task in envs.registry.domains()
        else envs.task(task).domain
    )
    return Path(root) / domain / algo / "buffer"


def collect(
    task: str | Task,
    folder: str | Path,
    *,
    episodes: int,
    seed: int = 0,
    collector: str = "random",
    action_repeat: int = 1,
    progress: bool = True,
) -> dict[str, Any]:
    """Run a collector and write its episodes; those that are there already are kept.

    Episode i depends on the seed and i alone (and the versions of the libraries), so an interrupted
    collection goes on to the same buffer, and a finished one can be extended.

    Args:
        task: its domain is what moves. Rewards written are those of the task; of a family, of the
            member that each episode drew; of `point_mass_goal`, whose data are reward-free, 0.
        folder: of the episodes and `metadata.json`.
        episodes: how many the buffer shall have.
        seed: of starts and policies.
        collector: a name of `datasets.collectors.collectors(task)`.
        action_repeat: steps for which each action is held; every one of them is stored.
        progress: show a progress bar.

    Returns:
        the metadata; its versions are those of the libraries and the code that episodes were last
        made with.

    Raises:
        ValueError: unknown task or collector, or a folder that was collected otherwise.
    """
    task, folder = envs.task(task), Path(folder)
    policy = collector_class(collector, task)
    spec = envs.spec(task)
    made = {
        "task": task.id,
        "collector": collector,
        "seed": seed,
        "length": spec.length,
        "action_repeat": action_repeat,
        "settings": json.loads(
            json.dumps(policy.settings(task.domain))
        ),  # tuples come back from the file as lists
    }
    before = _read_metadata(folder)
    _refuse_other(folder, before, made)
    missing = {
        index
        for index in range(episodes)
        if not (folder / f"episode_{index:06d}_{spec.length}.npz").exists()
    }
    if before and not missing:
        return before
    metadata = {
        **made,
        "actions": before.get("actions") if before else "float32",  # as executed
        "domain": task.domain,
        "format": "ExoRL",
        "episodes": max(episodes, before.get("episodes") or 0),
        "versions": {name: version(name) for name in _LIBRARIES} | {"code": _code(task.domain)},
    }
    _say_what_differs(folder, before, metadata, len(missing))
    _write_metadata(folder, metadata)
    batches = sorted({index // policy.batch for index in missing})
    environments = envs.make_vec(task, policy.batch)
    steps = len(batches) * policy.batch * spec.length
    label = f"collecting {task.id}"
    with tqdm(
        total=steps, desc=label, unit="step", unit_scale=True, disable=not progress, mininterval=0.5
    ) as bar:
        for batch in batches:
            numbers = range(batch * policy.batch, (batch + 1) * policy.batch)
            observation, info = environments.reset(
                seed=[_start_seed(seed, index) for index in numbers]
            )
            actor = policy(environments.tasks, np.random.default_rng([seed, batch]))
            run = _run(environments, actor, action_repeat, observation, info, bar)
            for index, episode in zip(numbers, run, strict=True):
                if index in missing:
                    write_episode(folder, index, episode)
    return metadata


def _say_what_differs(folder: Path, before: dict[str, Any], now: dict[str, Any], more: int) -> None:
    """Says how `more` episodes will differ from those that a buffer holds, if they will."""
    if before and before.get("actions") is None:
        said = "actions of its earlier episodes were rounded after they were executed"
        tqdm.write(f"{folder}: {said}, so that replays of them drift")
    there = before.get("versions") or {}
    changed = [key for key, value in now["versions"].items() if there.get(key, value) != value]
    if changed:
        said = f"{more} more episodes are made under another {', '.join(changed)} than those there"
        tqdm.write(f"{folder}: {said}")


def _write_metadata(folder: Path, metadata: dict[str, Any]) -> None:
    """Writes `metadata.json` whole, and makes the folder.

    Raises:
        ValueError: the folder cannot be written.
    """
    partial = (
        folder / f"{METADATA}.{os.getpid()}.part"
    )  # of this process: several may start on one buffer
    try:
        folder.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(metadata, indent=2) + "\n")
        partial.replace(folder / METADATA)
    except OSError as error:
        raise ValueError(
            f"buffer {folder}: cannot be written ({error.strerror}); choose another folder"
        ) from None


def _code(domain: str) -> str:
    return fingerprint("datasets.collection", "envs.environment", f"envs.domains.{domain}")


def _start_seed(seed: int, index: int) -> int:
    return int(np.random.SeedSequence([seed, index]).generate_state(1)[0])


def _read_metadata(folder: Path) -> dict[str, Any]:
    """Returns what is known of a buffer; empty where nothing was collected yet.

    Raises:
        ValueError: the folder holds episodes of unknown origin, or the file is not what `collect`
            wrote.
    """
    path = folder / METADATA
    if not path.exists():
        if any(folder.glob("*.npz")):
            raise ValueError(
                f"buffer {folder}: holds episodes that were not collected here; choose another folder"
            )
        return {}
    advice = "restore it, or choose another folder"
    try:
        known = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read ({error}); {advice}") from None
    kinds = {"task": str, "episodes": int | None, "settings": dict | None}
    facts = known if isinstance(known, dict) else {}
    if not all(isinstance(facts.get(key), kind) for key, kind in kinds.items()):
        raise ValueError(f"{path}: is not what a collection writes; {advice}")
    return known


def _refuse_other(folder: Path, before: dict[str, Any], made: dict[str, Any]) -> None:
    """A buffer holds one way of making data."""
    if not before:
        return
    before = {"action_repeat": 1, "settings": None} | before
    if before["settings"] is None:
        said = "does not say with which settings its episodes were collected"
        tqdm.write(f"{folder / METADATA}: {said}; they may not be those of today")
        made["settings"] = None  # of the buffer as a whole it stays unknown
    there, here = _by_key(before), _by_key(made)
    for key in [*here, *(key for key in there if key.startswith("settings.") and key not in here)]:
        if there.get(key) != here.get(key):
            was = f"{key}={there.get(key)!r}"
            raise ValueError(
                f"buffer {folder}: was collected with {was}, not {here.get(key)!r}; choose another folder"
            )


def _by_key(facts: dict[str, Any]) -> dict[str, Any]:
    """Of metadata, the collector's settings each by a key of its own."""
    return (
        facts
        | {f"settings.{key}": value for key, value in (facts["settings"] or {}).items()}
        | {"settings": None}
    )


def _run(
    environments: VectorEnv,
    actor: Collector,
    repeat: int,
    observation: np.ndarray,
    info: dict[str, np.ndarray],
    bar: tqdm,
) -> list[Episode]:
    """One batch of episodes, just reset."""
    spec, count = envs.spec(environments.tasks[0]), environments.num_envs
    rows = spec.length + 1
    columns = {
        "observation": spec.observation,
        "action": spec.action,
        "reward": 1,
        "discount": 1,
        "physics": spec.physics,
    }
    table = {key: np.zeros((count, rows, size)) for key, size in columns.items()}
    table["discount"][:] = 1
    reward_free = environments.tasks[0].name == "point_mass_goal"
    for row in range(rows):
        if row:
            if (row - 1) % repeat == 0:
                # Rounded before it is executed: what is stored is what was done.
                action = np.clip(actor.act(row - 1, info["physics"]), -1, 1).astype(np.float32)
            observation, reward, _, _, info = environments.step(action)
            table["action"][:, row] = action
            table["reward"][:, row, 0] = 0 if reward_free else reward
            bar.update(count)
        table["observation"][:, row] = observation
        table["physics"][:, row] = info["physics"]
    return [
        Episode(**{key: values[index] for key, values in table.items()}) for index in range(count)
    ]
