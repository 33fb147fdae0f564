"""What may be written on a command line: the settings of a command, their types and ranges, and
clear words for what is wrong.

Everything here is checked before jax or MuJoCo is imported. The dataclasses of
`agentic_transformer.config` say what is allowed.
"""

from __future__ import annotations

import difflib
import math
import re
import sys
import types
import typing
from collections.abc import Iterable
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, NoReturn

from agentic_transformer.capacity import estimate_settings, hardware
from agentic_transformer.training import distributed

WIDTH = 200  # characters of one line of an error

_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


class SettingError(ValueError):
    """Bad input on the command line, in at most three lines: what is wrong where, what is allowed,
    the nearest match.
    """


def reject(what: str, allowed: str = "", nearest: str | None = None) -> NoReturn:
    """Raise a SettingError of at most three lines.

    Args:
        what: what is wrong and where.
        allowed: what would be right.
        nearest: the right word most like the wrong one.
    """
    lines = [
        what,
        f"  allowed: {allowed}" if allowed else "",
        f"  nearest: {nearest}" if nearest else "",
    ]
    lines = [_printable(line) for line in lines]
    raise SettingError(
        "\n".join(
            line if len(line) <= WIDTH else line[: WIDTH - 4] + " ..." for line in lines if line
        )
    )


def _printable(text: str) -> str:
    """Text without line breaks and other characters that would change how a terminal shows it."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def say(command: str, error: Exception) -> None:
    """Print an error for the user of a command."""
    print(f"experiments.{command}: {error}", file=sys.stderr)


def nearest(word: str, words: Iterable[str]) -> str | None:
    """The one of `words` most like `word`, or that ends in it (`steps` is near `train.steps`)."""
    words = list(words)
    ends = [name for name in words if name.rsplit(".", 1)[-1] == word.rsplit(".", 1)[-1]]
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.5)
    return next(iter([*close, *ends]), None) if "." in word else next(iter([*ends, *close]), None)


def listing(words: Iterable[str]) -> str:
    """Names for an error's `allowed` line."""
    return ", ".join(sorted(words))


@dataclass(frozen=True)
class Setting:
    """One setting: its dotted key, its type, and what its field's metadata allows."""

    key: str
    kind: type
    many: bool = False
    """A list of `kind`; bounds and choices then hold for each element."""
    optional: bool = False
    filled: bool = False
    """A list that must not be empty."""
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] | None = None

    @property
    def allowed(self) -> str:
        """What values are right, in words."""
        if self.choices:
            words = listing(self.choices)
        else:
            words = _NAMES[self.kind]
            if self.minimum is not None and self.maximum is not None:
                words += f" from {self.minimum} to {self.maximum}"
            elif self.minimum is not None:
                words += f", at least {self.minimum}"
        if self.many:
            words = f"a list such as [a,b], each {words}"
        return words + (", or null" if self.optional else "")

    def check(self, value: Any) -> None:
        """Raise a SettingError if `value` may not stand here."""
        if value is None and self.optional:
            return
        if not self.many:
            self._check_one(value)
        elif not isinstance(value, list) or (self.filled and not value):
            reject(
                f"{self.key}={shown(value)}: not a list"
                if value != []
                else f"{self.key}=[]: an empty list",
                self.allowed,
            )
        else:
            for element in value:
                self._check_one(element)
            twice = next((element for element in value if value.count(element) > 1), None)
            if twice is not None:
                reject(f"{self.key}={shown(value)}: {shown(twice)} stands there twice", "each once")

    def _check_one(self, value: Any) -> None:
        said = f"{self.key}={shown(value)}"
        if not _is_a(value, self.kind):
            reject(f"{said}: needs {_NAMES[self.kind]}", self.allowed)
        if self.choices and value not in self.choices:
            reject(f"{said}: unknown", self.allowed, nearest(str(value), self.choices))
        low = self.minimum is not None and value < self.minimum
        if low or (self.maximum is not None and value > self.maximum):
            reject(f"{said}: out of range", self.allowed)


def shown(value: Any) -> str:
    """A value as one would write it on the command line."""
    if isinstance(value, list):
        return f"[{','.join(map(shown, value))}]"
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def written(values: dict[str, Any], prefix: str = "") -> str:
    """Settings as one would write them on the command line."""
    return " ".join(f"{prefix}{name}={shown(value)}" for name, value in values.items())


def _is_a(value: Any, kind: type) -> bool:
    if kind is bool or isinstance(value, bool):
        return kind is bool and isinstance(value, bool)
    if kind is float:
        return isinstance(value, int | float) and math.isfinite(value)
    if kind is str:
        return isinstance(value, str) and value != "" and _is_utf_8(value)
    return isinstance(value, kind)


def _is_utf_8(text: str) -> bool:
    """Whether text can be written; a file's name in another encoding comes with surrogates."""
    try:
        return bool(text.encode())
    except UnicodeEncodeError:
        return False


def within(key: str, *places: str) -> bool:
    """Whether a dotted key is one of `places` or lies in one of them."""
    return any(key == place or key.startswith(place + ".") for place in places)


def settings(command: type, prefix: str = "") -> dict[str, Setting]:
    """Every setting of a command's dataclass by its dotted key."""
    found = {}
    hints = typing.get_type_hints(command)
    for field in fields(command):
        key, hint = prefix + field.name, hints[field.name]
        if is_dataclass(hint):
            found |= settings(hint, key + ".")
            continue
        optional = isinstance(hint, types.UnionType)
        if optional:
            hint = next(kind for kind in typing.get_args(hint) if kind is not type(None))
        many = typing.get_origin(hint) is list
        kind = typing.get_args(hint)[0] if many else hint
        filled = many and bool(field.default_factory())
        found[key] = Setting(key, kind, many, optional, filled, **field.metadata)
    return found


def value_at(command: Any, key: str) -> Any:
    """The value that a command's dataclass holds at a dotted key."""
    for name in key.split("."):
        command = getattr(command, name)
    return command


def check_task(name: str) -> None:
    """Raise a SettingError if there is no task of this name."""
    import envs

    names = envs.tasks()
    if name not in names:
        close = difflib.get_close_matches(name, names, n=5, cutoff=0.4)
        reject(
            f"task={name}: no such task",
            f"{len(names)} names in envs.tasks(), such as {listing(close or names[:5])}",
            next(iter(close), None),
        )


def check_horizon(task: str, data: Any) -> None:
    """Raise a SettingError if an episode of the task has fewer steps than asked for."""
    import envs

    length = envs.spec(task).length
    if data.action_repeat * (data.horizon or 1) > length:
        said = f"data.action_repeat={data.action_repeat} with data.horizon={shown(data.horizon)}"
        reject(said, f"a product of at most {length}, the steps of an episode of {task}")


def check_plan(command: Any) -> None:
    """Raise a SettingError if what is to be planned for does not exist, forms no such rings, or is
    nothing that we model.
    """
    try:
        topology = hardware.topology(command.topology)
    except ValueError as error:
        said, close = str(error).split("\n")
        reject(f"topology={command.topology}: no such topology", said, close)
    model, ring, devices = command.model, command.ring or 1, topology.devices
    if model.attention not in estimate_settings.BACKBONES:
        reject(
            f"model.attention={model.attention}: not planned for",
            listing(estimate_settings.BACKBONES),
        )
    if ring > 1 and model.attention != "ring":
        said = f"ring={ring} with model.attention={model.attention}, of which each device takes whole sequences"
        reject(said, "ring=1, or model.attention=ring")
    if devices % ring:
        sizes = [str(size) for size in range(1, devices + 1) if devices % size == 0]
        reject(
            f"ring={ring} does not divide the {devices} devices of {command.topology}",
            ", ".join(sizes),
        )
    taken = estimate_settings.assumed_settings(model)
    if taken and (command.compile == "nothing" or not topology.compilable):
        asked = written({name: getattr(model, name) for name in taken}, "model.")
        reject(
            f"{asked}: not estimated, and nothing is compiled",
            f"{written(taken, 'model.')}, or a TPU and compile=memory",
        )


def check_processes(mesh: Any) -> None:
    """Raise a SettingError if the settings of several processes do not fit each other."""
    if mesh.process >= mesh.processes:
        reject(
            f"mesh.process={mesh.process} of mesh.processes={mesh.processes}",
            f"0 to {mesh.processes - 1}",
        )
    if (mesh.processes > 1) != (mesh.coordinator is not None):
        reject(
            f"mesh.processes={mesh.processes} with mesh.coordinator={shown(mesh.coordinator)}",
            "both, or neither of them",
        )


def check_checkpoint(which: str) -> None:
    """Raise a SettingError unless this may name a checkpoint."""
    words = ("newest", "best")
    if which not in words and not which.isdecimal():
        reject(
            f"checkpoint={which}: unknown", f"{listing(words)}, or a step", nearest(which, words)
        )


def check_agent(part: str, agent: Any, command: Any) -> None:
    """Raise a SettingError if an agent's settings do not fit the others; `part` is "agent", or the
    quickstart's "baseline".
    """
    if not re.fullmatch(r"\w[\w.-]*", agent.name):
        reject(
            f"{part}.name={agent.name}: names a folder",
            "letters, digits, _ - and . behind the first",
        )
    if agent.learner != "transformer" and distributed.process_info(command.mesh)[1] > 1:
        reject(
            f"{part}.learner={agent.learner} in several processes", "one: a single device trains it"
        )
    available = max(1, round(agent.top * command.data.episodes))
    if agent.trajectories > available:
        top = f" with {part}.top={agent.top}" if agent.top < 1 else ""
        said = f"{part}.trajectories={agent.trajectories} distinct trajectories of data.episodes={command.data.episodes}{top}"
        reject(said, f"at most {available}")
    if part == "baseline":
        seen = command.train.batch * command.agent.trajectories
        if agent.name == command.agent.name:
            reject(
                f"baseline.name={agent.name} is the agent's name too",
                "another agent, such as agent@baseline=dt",
            )
        if seen % agent.trajectories:
            said = f"baseline.trajectories={agent.trajectories} does not divide train.batch * agent.trajectories = {seen}"
            reject(said, "a divisor: both see as many trajectories a step")


def check_command(command: Any) -> None:
    """Raise a SettingError if any value of a command's dataclass may not stand where it does, alone
    or beside the others.
    """
    for key, setting in settings(type(command)).items():
        setting.check(value_at(command, key))
    if hasattr(command, "task"):
        check_task(command.task)
        check_horizon(command.task, command.data)
    if hasattr(command, "topology"):
        check_plan(command)
    if hasattr(command, "checkpoint"):
        check_checkpoint(command.checkpoint)
    if hasattr(command, "mesh"):
        check_processes(command.mesh)
        processes = distributed.process_info(command.mesh)[1]
        ring, devices = command.mesh.ring, command.mesh.virtual_devices * processes
        if devices % ring:
            divisors = [str(size) for size in range(1, devices + 1) if devices % size == 0]
            times = f" in each of {processes} processes" if processes > 1 else ""
            reject(
                f"mesh.ring={ring} does not divide mesh.virtual_devices={command.mesh.virtual_devices}{times}",
                ", ".join(divisors),
            )
        data = devices // ring
        if hasattr(command, "train") and devices and command.train.batch % data:
            said = f"train.batch={command.train.batch} does not divide over the {data} devices of the data axis"
            reject(said, f"a multiple of {data} (mesh.virtual_devices / mesh.ring)")
    for part in ("agent", "baseline"):
        if hasattr(command, part):
            check_agent(part, getattr(command, part), command)
    if hasattr(command, "train") and command.train.batch % command.train.grad_accum_steps:
        said = f"train.grad_accum_steps={command.train.grad_accum_steps} does not divide train.batch={command.train.batch}"
        reject(said, "a divisor of the batch")
    if hasattr(command, "model") and command.model.width % command.model.heads:
        reject(
            f"model.heads={command.model.heads} does not divide model.width={command.model.width}",
            "a width that is a multiple",
        )
