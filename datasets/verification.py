"""Reads a whole buffer and reports what is wrong with it, file by file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from datasets.consistency import domain_of, problems_of
from datasets.episode import BadEpisode, Episode, episode_files, left_out, read_episode


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


def verify(buffer: str | Path, domain: str | None = None, *, progress: bool = True) -> Report:
    """Read every episode of a buffer.

    A problem is a file that cannot be read or whose arrays do not fit together or differ in size or
    length from most of the buffer's, and whatever `datasets.consistency.problems_of` finds in it.

    Args:
        buffer: a folder of episodes.
        domain: whose body moves in them; None: the one that `<domain>/<algo>/buffer` names, if any.
        progress: show a progress bar.

    Raises:
        ValueError: the folder does not exist or holds no episodes, or an unknown domain.
    """
    report = Report()
    domain = domain_of(buffer) if domain is None else domain
    shapes: dict[str, tuple] = {}
    for path in tqdm(
        episode_files(buffer),
        desc="verifying episodes",
        unit="episode",
        disable=not progress,
        mininterval=0.5,
    ):
        report.episodes += 1
        try:
            episode = read_episode(path)
        except BadEpisode as error:
            report.problems[path.name] = str(error).removeprefix(f"{path}: ")
            continue
        report.transitions += episode.length
        shapes[path.name] = _shape(episode)
        if wrong := problems_of(episode, domain):
            report.problems[path.name] = "; ".join(wrong)
    if shapes:
        _compare(shapes, report)
    if others := left_out(buffer):
        report.remarks.append(others)
    if domain is None:
        unnamed = "neither its folder nor domain=<domain> names a body"
        report.remarks.append(f"whose data this is was not checked: {unnamed}")
    return report


def _shape(episode: Episode) -> tuple:
    physics = (
        None if episode.physics is None else (episode.physics.shape[1], episode.physics.dtype.name)
    )
    return (
        episode.length,
        episode.observation.shape[1],
        episode.action.shape[1],
        episode.reward.shape[1],
        physics,
    )


def _compare(shapes: dict[str, tuple], report: Report) -> None:
    """Hold every file against the most common sizes."""
    kinds = list(shapes.values())
    usual = max(set(kinds), key=kinds.count)
    for name, shape in shapes.items():
        if shape != usual:
            report.problems.setdefault(
                name,
                f"(length, observation, action, reward, physics) = {shape}, most files have {usual}",
            )
    if usual[4] is None:
        report.remarks.append(
            "no physics: rewards of other tasks cannot be computed from this buffer"
        )
    elif usual[4][1] != "float64":
        report.remarks.append(
            f"physics is {usual[4][1]}, not float64: relabelled rewards differ in their last digits"
        )
    if usual[3] > 1:
        report.remarks.append(f"rewards have {usual[3]} columns, one for each corner of the domain")
