"""Reads a whole buffer and reports what is wrong with it, file by file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from datasets.episode import BadEpisode, Episode, episode_files, read_episode


@dataclass
class Report:
    """What was found.

    Attributes:
        episodes: files read.
        transitions: in the good ones.
        problems: file name -> what is wrong with it.
        remarks: what holds for the whole buffer and is worth knowing.
    """

    episodes: int = 0
    transitions: int = 0
    problems: dict[str, str] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


def verify(buffer: str | Path, *, progress: bool = True) -> Report:
    """Read every episode of a buffer.

    A problem is a file that cannot be read or whose arrays do not fit together or differ in size or length from most of the
    buffer's; a reset row that is not one; actions outside [-1, 1]; a discount other than 1.

    Raises:
        ValueError: the folder does not exist or holds no episodes.
    """
    report = Report()
    shapes: dict[str, tuple] = {}
    for path in tqdm(episode_files(buffer), desc="verifying episodes", unit="episode", disable=not progress, mininterval=0.5):
        report.episodes += 1
        try:
            episode = read_episode(path)
        except BadEpisode as error:
            report.problems[path.name] = str(error).removeprefix(f"{path}: ")
            continue
        report.transitions += episode.length
        shapes[path.name] = _shape(episode)
        wrong = list(_wrong_values(episode))
        if wrong:
            report.problems[path.name] = "; ".join(wrong)
    if shapes:
        _compare(shapes, report)
    return report


def _shape(episode: Episode) -> tuple:
    physics = None if episode.physics is None else (episode.physics.shape[1], episode.physics.dtype.name)
    return episode.length, episode.observation.shape[1], episode.action.shape[1], episode.reward.shape[1], physics


def _wrong_values(episode: Episode) -> Iterator[str]:
    if episode.action[0].any() or episode.reward[0].any():
        yield "row 0 is not a reset (its action and reward must be 0)"
    if np.abs(episode.action).max() > 1 + 1e-6:
        yield f"actions reach {np.abs(episode.action).max():.3g}, outside [-1, 1]"
    if (episode.discount != 1).any():
        yield f"discounts fall to {episode.discount.min():.3g}; these domains never terminate"


def _compare(shapes: dict[str, tuple], report: Report) -> None:
    """Hold every file against the most common sizes."""
    kinds = list(shapes.values())
    usual = max(set(kinds), key=kinds.count)
    for name, shape in shapes.items():
        if shape != usual:
            report.problems.setdefault(name, f"(length, observation, action, reward, physics) = {shape}, most files have {usual}")
    if usual[4] is None:
        report.remarks.append("no physics: rewards of other tasks cannot be computed from this buffer")
    elif usual[4][1] != "float64":
        report.remarks.append(f"physics is {usual[4][1]}, not float64: relabelled rewards differ in their last digits")
    if usual[3] > 1:
        report.remarks.append(f"rewards have {usual[3]} columns, one for each corner of the domain")
