"""Checks a whole buffer and reports its problems, file by file."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from datasets.collection_metadata import read_versions
from datasets.consistency import domain_of, problems_of
from datasets.episode import BadEpisode, Episode, episode_files, ignored_entries, read_episode
from datasets.progress import progress_bar


@dataclass
class Report:
    """Holds what `verify` found.

    Attributes:
        episodes: number of files that were read.
        transitions: number of transitions in readable files.
        problems: file name -> what is wrong with the file.
        remarks: sentences about the buffer as a whole that are no problems.
    """

    episodes: int = 0
    transitions: int = 0
    problems: dict[str, str] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


def verify(buffer: str | Path, domain: str | None = None, *, progress: bool = True) -> Report:
    """Reads every episode of a buffer and reports problems.

    A file is a problem if it cannot be read, if its arrays do not fit together, if it differs from
    most files of the buffer in its length, its arrays or their sizes, or if
    `datasets.consistency.problems_of` finds something.

    Args:
        buffer: a folder of episodes.
        domain: the domain whose data they should be. None takes the one that
            `<domain>/<algo>/buffer` names, if any.
        progress: show a progress bar.

    Raises:
        ValueError: the folder does not exist or holds no episodes, or an unknown domain.
    """
    report = Report()
    domain = domain_of(buffer) if domain is None else domain
    shapes: dict[str, tuple] = {}
    files = episode_files(buffer)
    for path in progress_bar("verifying episodes", files, unit="episode", show=progress):
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
        _report_unusual_shapes(shapes, report)
    if versions := read_versions(Path(buffer)):
        made = ", ".join(f"{key} {value}" for key, value in versions.items())
        report.remarks.append(f"collected with {made}")
    if ignored := ignored_entries(buffer):
        report.remarks.append(ignored)
    if domain is None:
        unnamed = "neither its folder nor domain=<domain> names a domain"
        report.remarks.append(f"whose data this is was not checked: {unnamed}")
    return report


def _shape(episode: Episode) -> tuple:
    physics = episode.physics
    described = None if physics is None else (physics.shape[1], physics.dtype.name)
    arrays = (episode.observation, episode.action, episode.reward)
    demonstrated = episode.demonstrator is not None
    return (episode.length, *(array.shape[1] for array in arrays), described, demonstrated)


def _report_unusual_shapes(shapes: dict[str, tuple], report: Report) -> None:
    """Compares every file with the most common sizes, and remarks on those."""
    counts = Counter(shapes.values())
    usual = counts.most_common(1)[0][0]
    for name, shape in shapes.items():
        if shape != usual:
            found = f"(length, observation, action, reward, physics, demonstrator) = {shape}"
            report.problems.setdefault(name, f"{found}, most files have {usual}")
    reward_columns, physics = usual[3:5]
    if physics is None:
        report.remarks.append(
            "no physics: rewards of other tasks cannot be computed from this buffer"
        )
    elif physics[1] != "float64":
        report.remarks.append(
            f"physics is {physics[1]}, not float64: relabelled rewards differ in their last digits"
        )
    if reward_columns > 1:
        report.remarks.append(
            f"rewards have {reward_columns} columns, one for each corner of the domain"
        )
