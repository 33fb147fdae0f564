"""Registers hidden tasks of environments of gymnasium: rewards that depend on hidden parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from envs.family_table import FAMILIES, Family, Parameter, Sampler
from envs.gymnasium_tasks import PREFIX, is_gymnasium


def register_family(
    name: str,
    parameters: Mapping[str, Parameter],
    training: Sampler,
    reward: Callable[..., np.ndarray],
    beyond: Sampler | None = None,
) -> None:
    """Makes an environment of gymnasium a hidden task, in place of one with its own reward.

    The environment only moves; what it pays is ignored. A family that is registered again is
    replaced.

    Args:
        name: `gymnasium:<module>:<id>`. Where it is named, the module is imported, so the module
            itself calls this function.
        parameters: by name, what is hidden.
        training: draws training tasks, and held-out tasks between them: (source of the draws,
            count) -> (count, numbers), the numbers of all parameters, one after another.
        reward: (observations after a step (..., O), **parameters) -> (...). A parameter has the
            shape (...), or (..., numbers) where it is several; shapes broadcast.
        beyond: draws held-out tasks outside of the training tasks' range.

    Raises:
        ValueError: the name is of no environment of gymnasium, there are no parameters, or a drawn
            value is none that they allow.
    """
    if not is_gymnasium(name):
        raise ValueError(f"register_family: {name!r} must be {PREFIX}<module>:<id>")
    if not parameters:
        raise ValueError(f"register_family: {name!r} has no parameters, so nothing is hidden")
    sizes = [parameter.size for parameter in parameters.values()]
    for draw in filter(None, (training, beyond)):
        drawn = np.asarray(draw(np.random.default_rng(0), 2))
        if drawn.shape != (2, sum(sizes)):
            raise ValueError(
                f"register_family: {name!r}: 2 draws must have shape (2, {sum(sizes)}), "
                f"got {drawn.shape}"
            )
        for row in drawn:
            values = np.split(row, np.cumsum(sizes)[:-1])
            for (key, parameter), value in zip(parameters.items(), values, strict=True):
                parameter.check(f"register_family: {name!r}: {key}", value)
    FAMILIES[name] = Family(name, dict(parameters), training, beyond, reward=reward)
