"""Tells whether an episode can be what its domain's environment did: sizes, values, the body."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from datasets.episode import BadEpisode, Episode
from envs.registry import Spec, domain_spec, domains

_EPS = float(np.finfo(np.float32).eps)
_LARGEST_ACTION = 1 + 8 * _EPS  # scaling to [-1, 1] in float32 takes a few roundings
_ROWS = 4  # of an episode whose observations are computed anew


def domain_of(buffer: str | Path) -> str | None:
    """Returns the domain that a folder `<domain>/<algo>/buffer` names; None if it names none."""
    parents = Path(buffer).absolute().parents
    name = parents[1].name if len(parents) > 1 else ""
    return name if name in domains() else None


def check_consistent(path: Path, episode: Episode, domain: str | None) -> None:
    """Raises a BadEpisode that names the file at `path` if `problems_of` finds anything."""
    if problems := problems_of(episode, domain):
        raise BadEpisode(f"{path}: {'; '.join(problems)}")


def problems_of(episode: Episode, domain: str | None) -> list[str]:
    """Says what is wrong with the values of an episode, if anything.

    That is a reset row that is none, actions outside [-1, 1], a discount other than 1; and of a
    domain: other sizes, a longer episode, and observations that its physics does not show.

    Args:
        episode: as `read_episode` returns it, so of finite values.
        domain: whose body should move in it; None: any.

    Raises:
        ValueError: unknown domain.
    """
    return [*_wrong_values(episode), *(() if domain is None else _wrong_body(episode, domain))]


def _wrong_values(episode: Episode) -> Iterator[str]:
    if episode.action[0].any() or episode.reward[0].any():
        yield "row 0 is not a reset (its action and reward must be 0)"
    if np.abs(episode.action).max() > _LARGEST_ACTION:
        yield f"actions reach {np.abs(episode.action).max():.3g}, outside [-1, 1]"
    if (episode.discount != 1).any():
        yield f"discounts fall to {episode.discount.min():.3g}; these domains never terminate"


def _wrong_body(episode: Episode, domain: str) -> Iterator[str]:
    spec, found = domain_spec(domain), _sizes(episode)
    if not _has_sizes_of(found, spec):
        expected = _listed({key: getattr(spec, key) for key in found})
        said = f"{_listed(found)} numbers a row, expected {expected}"
        yield f"not {domain}'s: {said}{_nearest(episode, domain)}"
    elif episode.physics is not None and (difference := _difference(episode, domain)):
        yield f"not {domain}'s: {difference}{_nearest(episode, domain)}"
    elif episode.length > spec.length:
        yield f"not {domain}'s: {episode.length} transitions, an episode has at most {spec.length}"


def _sizes(episode: Episode) -> dict[str, int]:
    arrays = {key: getattr(episode, key) for key in ("observation", "action", "physics")}
    return {key: array.shape[1] for key, array in arrays.items() if array is not None}


def _has_sizes_of(found: dict[str, int], spec: Spec) -> bool:
    return all(size == getattr(spec, key) for key, size in found.items())


def _listed(sizes: dict[str, int]) -> str:
    return ", ".join(f"{key} {size}" for key, size in sizes.items())


def _difference(episode: Episode, domain: str) -> str | None:
    """Says where stored observations are not those of the stored physics; None if they are.

    Looks at a few rows, and only at entries that physics determines: no forces, no accelerations.
    These are rotations, positions and velocities, which MuJoCo's versions compute alike.
    """
    from envs.physics import observations_of  # loads MuJoCo

    rows = np.unique(np.linspace(1, episode.length, _ROWS).astype(int))
    stored = episode.observation[rows].astype(np.float64)
    physics = episode.physics[rows].astype(np.float64)
    shown = observations_of(domain, physics)
    # Rounding to float32 moves a number x by at most eps |x|. Third-party sets round physics too,
    # which has P numbers, each at most m. An entry is a product of rotations, of lengths of a few
    # metres, and of at most one velocity: it moves by a few times eps m (1 + m) with each of the P.
    largest = np.abs(physics).max(axis=1, keepdims=True)
    tolerance = _EPS * (np.abs(stored) + 4 * physics.shape[1] * (1 + largest) ** 2)
    wrong = np.argwhere(np.abs(stored - shown) > tolerance)  # NaN, what physics leaves open, is not
    if not len(wrong):
        return None
    row, entry = wrong[0]
    told = f"{stored[row, entry]:.6g}, but its physics shows {shown[row, entry]:.6g}"
    return f"entry {entry} of observation {rows[row]} is {told}"


def _nearest(episode: Episode, domain: str) -> str:
    """Names the other domain whose sizes and observations fit."""
    found = _sizes(episode)
    for other in domains():
        fits = other != domain and _has_sizes_of(found, domain_spec(other))
        if fits and (episode.physics is None or not _difference(episode, other)):
            return f"; nearest match: {other}"
    return ""
