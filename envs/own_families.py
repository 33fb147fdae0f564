"""Registers hidden tasks of environments of gymnasium: rewards that depend on hidden parameters."""

from __future__ import annotations

import inspect
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

    The environment's own rewards are ignored. A family that is registered again is replaced.

    Args:
        name: `gymnasium:<module>:<id>`. Naming it imports the module, so the module itself calls
            this function. Other names of the same environment are then refused.
        parameters: by name, what is hidden.
        training: draws training tasks, and held-out tasks between them: (source of the draws,
            count) -> (count, numbers), the numbers of all parameters, one after another.
        reward: (observations after a step (..., O), **parameters) -> (...). A parameter has the
            shape (...), or (..., numbers) where it is several; shapes broadcast.
        beyond: draws held-out tasks outside of the training tasks' range.

    Raises:
        ValueError: the name is not that of an environment of gymnasium, there are no parameters,
            the reward does not take them, or they do not allow a drawn value. A reward of another
            shape, or one that float32 does not hold, raises a ValueError when it is computed.
    """
    if not is_gymnasium(name):
        raise ValueError(f"register_family: {name!r} must be {PREFIX}<module>:<id>")
    if not parameters:
        raise ValueError(f"register_family: {name!r} has no parameters, so nothing is hidden")
    for key, parameter in parameters.items():
        if not isinstance(parameter, Parameter):
            raise ValueError(
                f"register_family: {name!r}: {key}={parameter!r}; allowed: an envs.Parameter"
            )
    try:
        inspect.signature(reward).bind(None, **parameters)
    except TypeError as error:
        takes = f"the observation and {', '.join(parameters)}"
        raise ValueError(f"register_family: {name!r}: the reward takes {takes}: {error}") from error
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

    def checked(observation: np.ndarray, **params: np.ndarray) -> np.ndarray:
        """Computes the reward and checks it: a sum over all axes would be broadcast."""
        paid = np.asarray(reward(observation, **params))
        shapes = [
            x.shape[:-1] if parameters[key].size > 1 else x.shape for key, x in params.items()
        ]
        expected = np.broadcast_shapes(observation.shape[:-1], *shapes)
        if paid.shape != expected:
            given = ", ".join(f"{key} {x.shape}" for key, x in params.items())
            raise ValueError(
                f"task {name!r}: the reward of observations {observation.shape} and {given} must "
                f"have shape {expected}, got {paid.shape}"
            )
        if not (np.abs(paid) <= np.finfo(np.float32).max).all():  # rewards are kept as float32
            raise ValueError(
                f"task {name!r}: a reward is NaN, infinite or beyond float32; allowed: numbers"
            )
        return paid

    FAMILIES[name] = Family(name, dict(parameters), training, beyond, reward=checked)
