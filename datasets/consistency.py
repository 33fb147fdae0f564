"""Checks whether a domain's environment can have produced an episode: sizes, values, physics."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from datasets.episode import BadEpisode, Episode
from envs.gymnasium_tasks import bounds, domain_in, is_gymnasium
from envs.registry import Spec, domain_spec, domains

_EPS = float(np.finfo(np.float32).eps)
_LARGEST_ACTION = 1 + 8 * _EPS  # scaling to [-1, 1] in float32 takes a few roundings
_CHECKED_ROWS = 4  # of an episode, whose observations are computed from physics


def domain_of(buffer: str | Path) -> str | None:
    """Returns the domain that a folder `<domain>/<algo>/buffer` names; None if it names none."""
    # Links keep their names, which `Path.resolve` would replace.
    parents = Path(os.path.normpath(Path(buffer).absolute())).parents
    name = parents[1].name if len(parents) > 1 else ""
    return name if name in domains() else domain_in(name)


def check_consistent(path: Path, episode: Episode, domain: str | None) -> None:
    """Raises a BadEpisode that names the file at `path` if `problems_of` finds anything."""
    if problems := problems_of(episode, domain):
        raise BadEpisode(f"{path}: {'; '.join(problems)}")


def problems_of(episode: Episode, domain: str | None) -> list[str]:
    """Lists what is wrong with the values of an episode; empty if nothing is.

    Problems are a row 0 that is not a reset, actions outside [-1, 1], and discounts other than 1.
    Where the domain is known, so are sizes that differ from the domain's, an episode that is longer
    than the domain's, and observations that do not follow from the stored physics, or that an
    environment of gymnasium cannot show.

    Args:
        episode: as `read_episode` returns it, so its values are finite.
        domain: the domain whose data it should be; None accepts any.

    Raises:
        ValueError: unknown domain.
    """
    problems = list(_wrong_values(episode))
    return problems if domain is None else [*problems, *_wrong_domain(episode, domain)]


def _wrong_values(episode: Episode) -> Iterator[str]:
    if episode.action[0].any() or episode.reward[0].any():
        yield "row 0 is not a reset (its action and reward must be 0)"
    if np.abs(episode.action).max() > _LARGEST_ACTION:
        yield f"actions reach {np.abs(episode.action).max():.3g}, outside [-1, 1]"
    demonstrated = episode.demonstrator
    if demonstrated is not None and (
        demonstrated.shape != episode.action.shape or np.abs(demonstrated).max() > _LARGEST_ACTION
    ):
        yield f"demonstrator must be as action is, {episode.action.shape} within [-1, 1]"
    if (episode.discount != 1).any():
        yield f"discounts fall to {episode.discount.min():.3g}; these domains never terminate"


def _wrong_domain(episode: Episode, domain: str) -> Iterator[str]:
    spec, found = domain_spec(domain), _sizes(episode)
    if is_gymnasium(domain):
        found.pop("physics", None)  # of whatever kind, as nothing here reads it
    if not _has_sizes_of(found, spec):
        expected = _listed({key: getattr(spec, key) for key in found})
        sizes = f"{_listed(found)} numbers a row, expected {expected}"
        yield f"not {domain}'s: {sizes}{_nearest(episode, domain)}"
    elif is_gymnasium(domain) and (outside := _outside(episode, domain)):
        yield f"not {domain}'s: {outside}"
    elif "physics" in found and (difference := _difference(episode, domain)):
        yield f"not {domain}'s: {difference}{_nearest(episode, domain)}"
    elif episode.length > spec.length:
        yield f"not {domain}'s: {episode.length} transitions, an episode has at most {spec.length}"


def _outside(episode: Episode, domain: str) -> str | None:
    """Says where observations leave what an environment of gymnasium shows; None if nowhere."""
    allowed, observation = bounds(domain), episode.observation.astype(np.float32)
    # Rounding keeps order, so rounded observations stay within rounded bounds.
    with np.errstate(over="ignore"):  # a bound beyond float32 is none
        low = allowed.observation_low.astype(np.float32)
        high = allowed.observation_high.astype(np.float32)
    wrong = np.argwhere((observation < low) | (observation > high))
    if not len(wrong):
        return None
    row, entry = wrong[0]
    found = f"entry {entry} of observation {row} is {observation[row, entry]:.6g}"
    return f"{found}, outside [{low[entry]:.6g}, {high[entry]:.6g}]"


def _sizes(episode: Episode) -> dict[str, int]:
    arrays = {key: getattr(episode, key) for key in ("observation", "action", "physics")}
    return {key: array.shape[1] for key, array in arrays.items() if array is not None}


def _has_sizes_of(found: dict[str, int], spec: Spec) -> bool:
    return all(size == getattr(spec, key) for key, size in found.items())


def _listed(sizes: dict[str, int]) -> str:
    return ", ".join(f"{key} {size}" for key, size in sizes.items())


def _difference(episode: Episode, domain: str) -> str | None:
    """Says where stored observations differ from those of the stored physics; None if nowhere.

    Compares a few rows, and only the entries that physics determines: not forces and accelerations.
    The rest are rotations, positions and velocities, which all versions of MuJoCo compute alike.
    """
    # Loads MuJoCo, which a check of a command line does not wait for.
    from envs.readings import observations_of

    rows = np.unique(np.linspace(1, episode.length, _CHECKED_ROWS).astype(int))
    stored = episode.observation[rows].astype(np.float64)
    physics = episode.physics[rows].astype(np.float64)
    computed = observations_of(domain, physics)
    # Rounding to float32 moves a number x by at most eps |x|. Third-party sets round physics too,
    # which has P numbers, each at most m. An entry of an observation is a product of rotations,
    # lengths of a few metres and at most one velocity. So each of the P roundings moves it by a few
    # times eps m (1 + m), for which 4 eps (1 + m)^2 is a bound.
    largest = np.abs(physics).max(axis=1, keepdims=True)
    tolerance = _EPS * (np.abs(stored) + 4 * physics.shape[1] * (1 + largest) ** 2)
    # Entries that physics does not determine are NaN, and NaN exceeds no tolerance.
    wrong = np.argwhere(np.abs(stored - computed) > tolerance)
    if not len(wrong):
        return None
    row, entry = wrong[0]
    both = f"{stored[row, entry]:.6g}, but its physics shows {computed[row, entry]:.6g}"
    return f"entry {entry} of observation {rows[row]} is {both}"


def _nearest(episode: Episode, domain: str) -> str:
    """Names the other domain whose sizes and observations fit."""
    found = _sizes(episode)
    for other in domains():
        fits = other != domain and _has_sizes_of(found, domain_spec(other))
        if fits and (episode.physics is None or not _difference(episode, other)):
            return f"; nearest match: {other}"
    return ""
