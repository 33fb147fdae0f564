"""Checkpoints of a run: the train state by step, and a description of the agent that is enough to rebuild it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from flax import nnx

from agentic_transformer.description import AgentDescription
from agentic_transformer.policy import Policy
from agentic_transformer.training import TrainState


class Checkpoints:
    """The checkpoints of one run folder, under `<run>/checkpoints/<step>`."""

    def __init__(self, run: Path, keep: int = 2) -> None:
        """Opens or makes the folder; what a killed save left behind is removed.

        Args:
            run: the run's folder.
            keep: how many of the newest checkpoints stay.
        """
        self.folder = (run / "checkpoints").resolve()
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True, cleanup_tmp_directories=True)
        self._manager = ocp.CheckpointManager(self.folder, options=options)

    def save(self, state: TrainState, description: AgentDescription) -> None:
        """Writes a checkpoint of the state's step in the background."""
        self._manager.save(
            int(state.step),
            args=ocp.args.Composite(
                params=ocp.args.StandardSave(state.params),
                optimizer=ocp.args.StandardSave(state.optimizer),
                description=ocp.args.JsonSave(description.to_dict()),
            ),
        )

    def latest_step(self) -> int | None:
        """The newest complete checkpoint's step, or None."""
        return self._manager.latest_step()

    def description(self) -> AgentDescription:
        """The newest checkpoint's description.

        Raises:
            ValueError: the run has no checkpoint.
        """
        restored = self._manager.restore(self._newest(), args=ocp.args.Composite(description=ocp.args.JsonRestore()))
        return AgentDescription.from_dict(restored["description"])

    def params(self, like: nnx.State) -> nnx.State:
        """The newest checkpoint's parameters, laid out as `like` is, on however many devices.

        Raises:
            ValueError: the run has no checkpoint.
        """
        return self._manager.restore(self._newest(), args=ocp.args.Composite(params=_restore(like)))["params"]

    def state(self, like: TrainState) -> TrainState:
        """The newest checkpoint's train state, laid out as `like` is, on however many devices.

        Raises:
            ValueError: the run has no checkpoint.
        """
        step = self._newest()
        args = ocp.args.Composite(params=_restore(like.params), optimizer=_restore(like.optimizer))
        restored = self._manager.restore(step, args=args)
        return TrainState(jax.device_put(jnp.int32(step), like.step.sharding), restored["params"], restored["optimizer"])

    def close(self) -> None:
        """Waits until all is written."""
        self._manager.wait_until_finished()
        self._manager.close()

    def _newest(self) -> int:
        step = self.latest_step()
        if step is None:
            raise ValueError(f"no checkpoint in {self.folder}; train the run first: python -m experiments.train")
        return step


def _restore(like: Any) -> ocp.args.StandardRestore:
    return ocp.args.StandardRestore(jax.tree.map(ocp.utils.to_shape_dtype_struct, like))


def load_policy(run: Path) -> Policy:
    """The agent of a trained run, from its newest checkpoint.

    Raises:
        ValueError: the run has no checkpoint.
    """
    checkpoints = Checkpoints(run)
    description = checkpoints.description()
    graph, params = nnx.split(description.build(seed=0), nnx.Param)
    policy = Policy(graph, checkpoints.params(params), description)
    checkpoints.close()
    return policy
