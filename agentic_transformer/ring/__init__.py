"""Computes exact attention over a sequence sharded on a ring of devices.

The functions take and return arrays. They know nothing of observations, actions or agents.

Example:
    >>> mesh = jax.make_mesh((8,), ("ring",), axis_types=(jax.sharding.AxisType.Auto,))
    # once, at the input
    >>> query, key, value = (to_layout(x, 8, "zigzag") for x in (query, key, value))
    >>> output = ring_attention(query, key, value, mesh=mesh)  # (batch, sequence, heads, head_dim)
    >>> output = from_layout(output, 8, "zigzag", length=length)
"""

from agentic_transformer.ring.api import (
    BACKBONES,
    attention,
    blockwise_attention,
    dense_attention,
    memory_efficient_attention,
    ring_attention,
    select_kernel,
)
from agentic_transformer.ring.compiler_options import compiler_options
from agentic_transformer.ring.decode import decode_attention, write_cache
from agentic_transformer.ring.feedforward import blockwise_feedforward
from agentic_transformer.ring.kernels import (
    Chunks,
    CPUKernel,
    FusedKernel,
    Kernel,
    ReferenceKernel,
    XLAKernel,
    select,
)
from agentic_transformer.ring.layout import (
    LAYOUTS,
    from_layout,
    padded_length,
    positions,
    to_layout,
)
from agentic_transformer.ring.ring import RESIDUAL_NAMES
from agentic_transformer.ring.shard import ring_attention_shard

__all__ = [
    "BACKBONES",
    "LAYOUTS",
    "RESIDUAL_NAMES",
    "CPUKernel",
    "Chunks",
    "FusedKernel",
    "Kernel",
    "ReferenceKernel",
    "XLAKernel",
    "attention",
    "blockwise_attention",
    "blockwise_feedforward",
    "compiler_options",
    "decode_attention",
    "dense_attention",
    "from_layout",
    "memory_efficient_attention",
    "padded_length",
    "positions",
    "ring_attention",
    "ring_attention_shard",
    "select",
    "select_kernel",
    "to_layout",
    "write_cache",
]
