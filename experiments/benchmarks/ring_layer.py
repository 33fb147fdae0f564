"""Builds a transformer layer around each attention backbone, to measure its training step."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from agentic_transformer.ring import attention, blockwise_feedforward

HEAD_DIM = 64
_WIDTH = 512
UNCHUNKED_FEEDFORWARD = ("dense", "memory_efficient")
"""Backbones whose feedforward is not cut into chunks, as in the paper's table 1."""


def ring_mesh(devices: int) -> Mesh:
    """Returns the first `devices` of this process as a ring."""
    return jax.make_mesh(
        (devices,), ("ring",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices]
    )


def on_ring(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of an array (batch, sequence, ...) over a ring."""
    return NamedSharding(mesh, PartitionSpec(None, "ring"))


def shapes(width: int) -> dict[str, tuple[int, int]]:
    """Returns the shapes of a layer's parameters; the feedforward is 4 times as wide."""
    return {
        "qkv": (width, 3 * width),
        "out": (width, width),
        "up": (width, 4 * width),
        "down": (4 * width, width),
    }


def layer(
    parameters: dict[str, jax.Array], x: jax.Array, *, mesh: Mesh, backbone: str
) -> jax.Array:
    """Computes a pre-norm layer with causal attention in zigzag order.

    x is (batch, sequence, width).
    """
    batch, sequence, width = x.shape
    qkv = (_rms_norm(x) @ parameters["qkv"]).reshape(
        batch, sequence, 3, width // HEAD_DIM, HEAD_DIM
    )
    attended = attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2], backbone=backbone, mesh=mesh)
    x = x + attended.reshape(x.shape) @ parameters["out"]

    def feedforward(parameters: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        return jax.nn.gelu(_rms_norm(x) @ parameters["up"]) @ parameters["down"]

    if backbone in UNCHUNKED_FEEDFORWARD:
        return x + feedforward(parameters, x)
    wide = {name: parameters[name] for name in ("up", "down")}
    return x + blockwise_feedforward(feedforward, wide, x, mesh=mesh)


def training_step(mesh: Mesh, backbone: str) -> Callable:
    """Returns the jitted gradient of a rematerialised layer by `(parameters, x)`."""

    def loss(parameters: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        return jnp.mean(
            jnp.square(jax.checkpoint(partial(layer, mesh=mesh, backbone=backbone))(parameters, x))
        )

    return jax.jit(
        jax.grad(loss, argnums=(0, 1)),
        out_shardings=(NamedSharding(mesh, PartitionSpec()), on_ring(mesh)),
    )


def temporary_bytes(backbone: str, sequence: int, devices: int) -> int:
    """Returns the temporary bytes on each device of a layer's training step in float32.

    As XLA plans them: the step is compiled, not run.
    """
    mesh = ring_mesh(devices)
    whole = NamedSharding(mesh, PartitionSpec())
    parameters = {
        name: jax.ShapeDtypeStruct(shape, jnp.float32, sharding=whole)
        for name, shape in shapes(_WIDTH).items()
    }
    x = jax.ShapeDtypeStruct((1, sequence, _WIDTH), jnp.float32, sharding=on_ring(mesh))
    return (
        training_step(mesh, backbone)
        .lower(parameters, x)
        .compile()
        .memory_analysis()
        .temp_size_in_bytes
    )


def _rms_norm(x: jax.Array) -> jax.Array:
    return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + 1e-6)
