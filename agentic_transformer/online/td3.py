"""Trains an actor online by TD3 (Fujimoto et al. 2018, arXiv 1802.09477).

Twin critics with smoothed targets and a delayed actor are those of `training.td3_bc`. Nothing holds
the actor near the data here, since the actor itself makes them.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from agentic_transformer.config import TD3Config
from agentic_transformer.contexts.transitions import Transitions
from agentic_transformer.models.actor_critic import Graphs, Shape, init_networks
from agentic_transformer.models.precision import matmul_precision
from agentic_transformer.training.actor_critic import init_actor_critic_state
from agentic_transformer.training.state import TrainState
from agentic_transformer.training.td3_bc import make_td3_update, td3_actor_loss
from datasets.new_file import new_file

_ROUND = "round"
_PRECISION = "highest"
"""Precision of float32 products; by default accelerators would round the factors."""


class TD3Learner:
    """Holds the networks, acts and learns.

    Attributes:
        state: the train state.
    """

    def __init__(self, observation: int, action: int, config: TD3Config, seed: int) -> None:
        """Prepares fresh networks.

        Args:
            observation: numbers that the learner sees, the task's parameters among them.
            action: numbers of an action.
            config: settings of the method.
            seed: of the parameters; the noise of targets depends on it and on the update's number.
        """
        shape = Shape(observation, action, config, layer_norm=True)
        self._graphs, params = init_networks(shape, seed)
        self.state = init_actor_critic_state(params, config)
        self._config, self._seed = config, seed

    def act(self, seen: np.ndarray) -> np.ndarray:
        """Returns actions without noise, (episodes, action size)."""
        return np.asarray(_own_action(self._graphs.actor, self.state.params["actor"], seen))

    def learn(self, batches: Transitions) -> None:
        """Makes an update for each batch; the arrays have the shapes (updates, batch, ...)."""
        self.state = update_many(self._graphs, self._config, self._seed, self.state, batches)

    def save(self, path: Path, done: int) -> None:
        """Writes the learner as a whole, with the number of rounds that it has learned from."""
        leaves = jax.tree.leaves(self.state)
        arrays = {f"{index:03d}": np.asarray(leaf) for index, leaf in enumerate(leaves)}
        archive = io.BytesIO()
        np.savez(archive, **arrays, **{_ROUND: np.array(done)})
        with new_file(path) as partial_file:
            partial_file.write_bytes(archive.getbuffer())

    def load(self, path: Path) -> int:
        """Reads what `save` wrote.

        Returns:
            the number of rounds that the learner has learned from.

        Raises:
            ValueError: the file is not a learner of these settings.
        """
        leaves, tree = jax.tree.flatten(self.state)
        with _saved_learner(path) as saved:
            read = [saved[f"{index:03d}"] for index in range(len(leaves))]
            done = int(saved[_ROUND])
            if any(a.shape != b.shape for a, b in zip(read, leaves, strict=True)):
                raise ValueError("its networks have other sizes")
        self.state = jax.tree.unflatten(tree, map(jnp.asarray, read))
        return done


def read_rounds(path: Path) -> int:
    """Returns the number of rounds that a saved learner has learned from.

    Raises:
        ValueError: the file is not a learner.
    """
    with _saved_learner(path) as saved:
        return int(saved[_ROUND])


@contextmanager
def _saved_learner(path: Path) -> Iterator[np.lib.npyio.NpzFile]:
    """Opens what `TD3Learner.save` wrote; the block reads arrays of it.

    Raises:
        ValueError: the file is not a learner, or not one that the block expects.
    """
    try:
        with np.load(path) as saved:
            yield saved
    except (
        OSError,
        ValueError,
        KeyError,
        AttributeError,  # numpy reads an entry that is no array as bytes
        EOFError,
        zipfile.BadZipFile,
        zlib.error,
        RuntimeError,
    ) as error:
        raise ValueError(
            f"{path}: holds no learner that can continue ({error}); delete its folder, or "
            "choose another data.root"
        ) from None


@partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=3)
def update_many(
    graphs: Graphs, config: TD3Config, seed: int, state: TrainState, batches: Transitions
) -> TrainState:
    """Makes an update for each batch, one after another.

    Args:
        graphs: structures of the networks.
        config: settings of the method.
        seed: noise depends only on the seed and the number of the update.
        state: is consumed.
        batches: arrays of the shapes (updates, batch, ...).
    """
    update = make_td3_update(graphs, config, seed, td3_actor_loss)
    with matmul_precision(_PRECISION):
        return jax.lax.scan(lambda state, batch: (update(state, batch)[0], None), state, batches)[0]


@partial(jax.jit, static_argnums=0)
def _own_action(graph: nnx.GraphDef, actor: nnx.State, seen: jax.Array) -> jax.Array:
    with matmul_precision(_PRECISION):
        return nnx.merge(graph, actor)(seen)
