"""Describes how training and acting compute: devices, kernel of attention, precision.

The description goes into a run's provenance and, as one line, to the terminal.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from agentic_transformer.config import ModelConfig
from agentic_transformer.models.precision import precision_in_use
from agentic_transformer.ring import select_kernel
from agentic_transformer.ring.kernels import why_not
from agentic_transformer.training.sharding import RING


def describe_computation(precision: str, devices: Sequence[jax.Device]) -> dict[str, str]:
    """Returns the devices and the precision of float32 products.

    Args:
        precision: of `model.precision`.
        devices: those that compute.
    """
    return {
        "devices": f"{len(devices)} x {devices[0].device_kind}",
        "float32_products": precision_in_use(precision),
    }


def describe_attention(config: ModelConfig, mesh: Mesh, one_chain_per_row: bool) -> dict[str, str]:
    """Returns the algorithm of attention, its kernel, and why it is that one.

    Args:
        config: settings of the model.
        mesh: devices, see `agentic_transformer.training.sharding.make_mesh`.
        one_chain_per_row: whether every row holds one chain alone: attention needs no segments.

    Raises:
        ValueError: the kernel of the settings cannot compute this.
    """
    head_dim, platform = config.width // config.heads, mesh.devices.flat[0].platform
    if problem := why_not(config.kernel, platform, config.dtype, head_dim):
        raise ValueError(
            f"model.kernel={config.kernel} cannot be used: {problem}; "
            "allowed: model.kernel=auto, which chooses one that can"
        )
    shape = (1, 2 * mesh.shape[RING], config.heads, head_dim)
    segments = None if one_chain_per_row else jax.ShapeDtypeStruct(shape[:2], jnp.int32)
    try:
        selection = select_kernel(
            jax.ShapeDtypeStruct(shape, config.dtype),
            backbone=config.attention,
            mesh=mesh,
            axis=RING,
            segment_ids=segments,
            kernel=config.kernel,
        )
    except ValueError as error:  # masks that it does not know, such as those of several chains
        raise ValueError(
            f"model.kernel={config.kernel}: {error}; allowed: model.kernel=auto"
        ) from None
    kernel = "none" if selection is None else selection.reason.rstrip(".")
    return {"attention": config.attention, "kernel": kernel}


def computation_line(facts: dict[str, str]) -> str:
    """Returns a description as one line, such as `computes on 1 x cpu; attention: ring; ...`."""
    rest = (f"{key.replace('_', ' ')}: {fact}" for key, fact in facts.items() if key != "devices")
    return "; ".join([f"computes on {facts['devices']}", *rest])
