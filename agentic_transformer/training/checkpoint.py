"""Checkpoints of a run: the train state by step, and a description of the agent that is enough to
rebuild it.

    <run>/checkpoints/<step>/{params,optimizer,description,metrics}   written by orbax, from all
    processes <run>/checkpoints/<step>/SHA256SUMS                               written last:
    without it the step does not count

Nothing here unpickles: arrays are zarr's, the rest is JSON.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
import tensorstore as ts
from etils import epath
from flax import nnx
from jax.sharding import Mesh

from agentic_transformer.agents import td3_bc
from agentic_transformer.agents.transformer import Policy
from agentic_transformer.models.spec import AgentSpec
from agentic_transformer.training import checksums as manifest
from agentic_transformer.training import distributed
from agentic_transformer.training.step import TrainState

_UNFINISHED = ".orbax-checkpoint-tmp"
"""What orbax adds to the name of a folder that is being written; here also one that is being
removed."""

_NOT_A_NAME = re.compile(r"\\|gs:/|\A/(gs|s3|az|hf)/")
"""In the path of a folder, what is written elsewhere: tensorstore takes `\\` for `/`, orbax the
others for storage in a cloud."""


def check_place(run: Path) -> None:
    """Raises a ValueError if the path of a run's folder means another place to the libraries that
    write checkpoints.
    """
    folder = run.resolve()
    if found := _NOT_A_NAME.search(f"{folder}/"):
        allowed = r"a path without \, without a name that ends in gs:, and outside of /gs, /s3, /az and /hf"
        raise ValueError(
            f"{folder}: no checkpoint can be written there because of {found[0]}; allowed: {allowed}"
        )


class Checkpoints:
    """The checkpoints of one run folder."""

    def __init__(self, run: Path, keep: int = 2, keep_best: int = 0) -> None:
        """Writes nothing yet.

        Args:
            run: the run's folder.
            keep: how many of the newest checkpoints stay.
            keep_best: how many of those with the smallest loss stay besides.
        """
        self.folder = (run / "checkpoints").resolve()
        self._keep, self._keep_best = keep, keep_best
        self._checkpointer = ocp.AsyncCheckpointer(_handler())
        self._background = ThreadPoolExecutor(max_workers=1)
        self._pending: Future | None = None

    def open(self) -> int | None:
        """Makes the folder ready for training and returns the newest whole step.

        What killed saves left behind is removed. A newer step that is not whole is set aside as
        `damaged-<step>`, and said.
        """
        if distributed.is_first():
            self.folder.mkdir(parents=True, exist_ok=True)
            for left in self.folder.glob(f"*{_UNFINISHED}*"):
                shutil.rmtree(left)
        return self._newest(lambda step: _free(self.folder / f"damaged-{step}"))

    def newest(self) -> int:
        """The newest whole step; what is wrong with a newer one is said.

        Raises:
            ValueError: there is none.
        """
        step = self._newest()
        if step is None:
            raise ValueError(
                f"no checkpoint in {self.folder}; train the run first: python -m experiments.train"
            )
        return step

    def find(self, which: str) -> int:
        """The step of a whole checkpoint.

        Args:
            which: "newest", "best" (by its loss), or a step.

        Raises:
            ValueError: there is none.
        """
        if which == "newest":
            return self.newest()
        whole = [step for step in self._steps() if self._is_whole(step)]
        found = (
            self._by_loss(whole)[:1]
            if which == "best"
            else [step for step in whole if str(step) == which]
        )
        if not found:
            there = ", ".join(map(str, whole)) or "none"
            raise ValueError(f"no checkpoint {which} in {self.folder}; whole ones there: {there}")
        return found[0]

    def save(self, state: TrainState, description: AgentSpec, loss: float) -> None:
        """Starts to write a checkpoint of the state's step; the state may be donated at once.

        Args:
            state: of all processes.
            description: of the agent.
            loss: by which the best checkpoints are known.

        Raises:
            OSError: the checkpoint before this one could not be written, or not be read back.
            ValueError: there is a checkpoint of that step.
        """
        self.wait()
        path = self.folder / str(int(state.step))
        if path.exists():
            raise ValueError(f"{path} is there already, and stays as it is")
        arrays = {"params": state.params, "optimizer": state.optimizer}
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), arrays)
        items = ocp.args.Composite(
            **{name: ocp.args.PyTreeSave(tree) for name, tree in arrays.items()},
            description=ocp.args.JsonSave(description.to_dict()),
            metrics=ocp.args.JsonSave({"loss": loss}),
        )
        try:
            self._checkpointer.save(_LiteralPath(path), args=items)
        except Exception as error:
            self._give_up(path, error)
        self._pending = self._background.submit(self._commit, path, shapes)

    def wait(self) -> None:
        """Waits until all is written.

        Raises:
            OSError: it could not be, or what was written cannot be read back.
        """
        if self._pending:
            pending, self._pending = self._pending, None
            pending.result()

    def close(self) -> None:
        """Waits until all is written.

        Raises:
            OSError: it could not be, or what was written cannot be read back.
        """
        self.wait()
        self._background.shutdown()
        self._checkpointer.close()

    def description(self, step: int) -> AgentSpec:
        """The agent that a checkpoint is of.

        Raises:
            ValueError: its settings are not of this version.
        """
        path = self.folder / str(step) / "description"
        try:
            return AgentSpec.from_dict(_read_json(path))
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"{path}: not the description of an agent of this version: {error}"
            ) from error

    def digest(self, step: int) -> str:
        """SHA-256 of all that a checkpoint holds."""
        return manifest.digest(self.folder / str(step))

    def export(self, step: int, run: Path) -> Path:
        """Copies a checkpoint to another run folder without its optimizer: enough to act, a third
        of the size.

        Returns:
            the copy's folder.

        Raises:
            OSError: the copy is not what was copied.
        """
        path = run / "checkpoints" / str(step)
        # orbax's mark that a save to cloud storage was whole names the folder it was saved to;
        # SHA256SUMS does that here.
        left_out = shutil.ignore_patterns("optimizer", "commit_success.txt", manifest.NAME)
        shutil.copytree(self.folder / str(step), path, ignore=left_out)
        manifest.write(path)
        if (
            changed := manifest.listed(path).items()
            - manifest.listed(self.folder / str(step)).items()
        ):
            raise OSError(
                f"{path} is not a copy of {self.folder / str(step)}: {min(changed)[0]} differs"
            )
        return path

    def policy(self, step: int, mesh: Mesh | None = None) -> Policy | td3_bc.TD3BCPolicy:
        """A checkpoint's agent, its caches on `mesh` if one is given."""
        description = self.description(step)
        if description.agent.learner == "td3_bc":
            networks, params = td3_bc.init(description, seed=0)
            return td3_bc.TD3BCPolicy(networks, self.params(step, params), description)
        params = nnx.state(nnx.eval_shape(lambda: description.build(seed=0)), nnx.Param)
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), params)
        return Policy.from_trained(self.params(step, like), description, mesh)

    def params(self, step: int, like: nnx.State) -> nnx.State:
        """A checkpoint's parameters, laid out as `like` is (arrays, or their shapes), on however
        many devices.

        Raises:
            ValueError: an array is missing, unknown, or has another shape or type than in `like`.
        """
        return _read(self.folder / str(step) / "params", like)

    def state(self, step: int, like: TrainState, description: AgentSpec) -> TrainState:
        """A checkpoint's train state, laid out as `like` is (arrays, or their shapes), on however
        many devices and processes.

        Raises:
            ValueError: it is another agent's or without its optimizer, or an array is missing,
                unknown, or has another shape or type than in `like`.
        """
        path = self.folder / str(step)
        there, here = _flat(self.description(step).to_dict()), _flat(description.to_dict())
        for key in sorted(there.keys() | here.keys()):
            if there.get(key) != here.get(key):
                said = f"{key} is {there.get(key)} there and {here.get(key)} here"
                raise ValueError(f"{path} is another agent's: {said}")
        if not (path / "optimizer").exists():
            raise ValueError(
                f"{path} is without its optimizer: it can be evaluated, not trained further"
            )
        number = jax.make_array_from_callback((), like.step.sharding, lambda _: jnp.int32(step))
        return TrainState(
            number, _read(path / "params", like.params), _read(path / "optimizer", like.optimizer)
        )

    def _newest(self, aside: Callable[[int], Path] | None = None) -> int | None:
        """The newest whole step as process 0 finds it; newer ones are moved to `aside(step)`."""
        found = -1
        for step in reversed(self._steps() if distributed.is_first() else []):
            if self._is_whole(step):
                found = step
                break
            if aside:
                (self.folder / str(step)).rename(aside(step))
        found = distributed.agree(found)
        return None if found < 0 else found

    def _is_whole(self, step: int) -> bool:
        """Whether a checkpoint is as it was written; what is wrong with it is said."""
        problem = manifest.problem(self.folder / str(step))
        if problem:
            print(f"checkpoint {step} is not whole: {problem}", file=sys.stderr, flush=True)
        return not problem

    def _by_loss(self, steps: list[int]) -> list[int]:
        """Best first; of equals the newest. One whose loss cannot be read is the worst."""

        def loss(step: int) -> float:
            try:
                return float(_read_json(self.folder / str(step) / "metrics")["loss"])
            except (OSError, ValueError, KeyError, TypeError):
                return math.inf

        return sorted(steps, key=lambda step: (loss(step), -step))

    def _steps(self) -> list[int]:
        return sorted(int(path.name) for path in self.folder.glob("*") if path.name.isdecimal())

    def _commit(self, path: Path, shapes: dict[str, Any]) -> None:
        """In the background: once all processes have written, list the files and drop older
        checkpoints.

        Before it counts, a checkpoint is opened, and must hold arrays of these shapes and no
        others.
        """
        try:
            self._checkpointer.wait_until_finished()
            if distributed.is_first():
                for item, like in shapes.items():
                    _open(path / item, like)
                manifest.write(path)
        except Exception as error:
            self._give_up(path, error)
        if distributed.is_first():
            self._prune()

    def _give_up(self, path: Path, error: Exception) -> None:
        for left in (path, *path.parent.glob(f"{path.name}{_UNFINISHED}*")):
            shutil.rmtree(left, ignore_errors=True)
        said = " ".join(str(error).split())[:300]
        raise OSError(
            f"checkpoint {path} could not be written (earlier ones are as they were): {said}"
        ) from error

    def _prune(self) -> None:
        steps = self._steps()
        best = self._by_loss(steps)[: self._keep_best]
        for step in steps[: -self._keep]:
            if step not in best:
                # Renamed first: what a kill leaves of it is removed at the next start.
                shutil.rmtree(
                    (self.folder / str(step)).rename(self.folder / f"{step}{_UNFINISHED}-removed")
                )


def _handler() -> ocp.CompositeCheckpointHandler:
    """Writes a checkpoint without orbax's files on how arrays lay on devices: a quarter of its
    time, and `_read` needs none.
    """
    arrays = ocp.type_handlers.ArrayHandler(enable_write_sharding_file=False)
    registry = ocp.type_handlers.create_type_handler_registry((jax.Array, arrays))
    return ocp.CompositeCheckpointHandler(
        params=ocp.PyTreeCheckpointHandler(type_handler_registry=registry),
        optimizer=ocp.PyTreeCheckpointHandler(type_handler_registry=registry),
        description=ocp.JsonCheckpointHandler(),
        metrics=ocp.JsonCheckpointHandler(),
    )


class _LiteralPath(type(epath.Path())):
    """A path as orbax takes it, in which `[`, `*` and `?` are letters like others.

    Orbax finds by `glob` what processes have written, and etils would read the whole path as a
    pattern: in a folder `lr[1e-3]` nothing would be found, and a checkpoint without its arrays be
        called whole.
    """

    def glob(self, pattern: str) -> Iterator[epath.Path]:
        """Yields what the pattern finds in this folder."""
        return (type(self)(found) for found in Path(self).glob(pattern))


def _read(path: Path, like: Any) -> Any:
    """The arrays of an item, laid out as `like` is (arrays, or their shapes); every process reads
    its own part.

    Not by orbax, which would cast types and pass other shapes on.
    """
    store = _open(path, like)

    def read(key: jax.tree_util.KeyPath, leaf: Any) -> jax.Array:
        array = ts.open({"driver": "zarr"}, kvstore=store / f"{_name(key)}/").result()
        return jax.make_array_from_callback(
            leaf.shape, leaf.sharding, lambda index: array[index].read().result()
        )

    return jax.tree_util.tree_map_with_path(read, like)


def _open(path: Path, like: Any) -> ts.KvStore:
    """Opens an item; raises a ValueError unless it holds the arrays that `like` holds (arrays, or
    their shapes).
    """
    store = ts.KvStore.open(
        {"driver": "ocdbt", "base": {"driver": "file", "path": f"{path}/"}}
    ).result()
    there = {
        name: f"{jnp.dtype(header['dtype'])}{header['shape']}"
        for name, header in _headers(store).items()
    }
    here = {
        _name(key): f"{leaf.dtype}{list(leaf.shape)}"
        for key, leaf in jax.tree_util.tree_leaves_with_path(like)
    }
    for name in sorted(there.keys() | here.keys()):
        if there.get(name) != here.get(name):
            raise ValueError(
                f"{path}: {name} is {there.get(name, 'missing')} there, the agent's is {here.get(name, 'missing')}"
            )
    return store


def _headers(store: ts.KvStore) -> dict[str, Any]:
    """What zarr says of each array, by name."""
    files = (file.decode() for file in store.list().result())
    return {
        file.removesuffix("/.zarray"): json.loads(store[file])
        for file in files
        if file.endswith("/.zarray")
    }


def _name(key: jax.tree_util.KeyPath) -> str:
    """Of an array in a tree, as orbax writes it."""
    return jax.tree_util.keystr(key, simple=True, separator=".")


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values by dotted key, as JSON gives them back."""
    flat = {}
    for key, value in json.loads(json.dumps(values)).items():
        flat |= (
            _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        )
    return flat


def _read_json(item: Path) -> Any:
    return json.loads((item / "metadata").read_text())


def _free(path: Path) -> Path:
    """A name that is not taken."""
    number = 2
    taken = path
    while taken.exists():
        taken, number = path.with_name(f"{path.name}-{number}"), number + 1
    return taken


def load_policy(run: Path) -> Policy | td3_bc.TD3BCPolicy:
    """The agent of a trained run, from its newest whole checkpoint.

    Raises:
        ValueError: the run has no checkpoint.
    """
    checkpoints = Checkpoints(run)
    policy = checkpoints.policy(checkpoints.newest())
    checkpoints.close()
    return policy
