"""Measures attention on 8 virtual CPU devices, ours and others', by CPU time.

All calls are interleaved in one process.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from agentic_transformer.ring import attention, to_layout
from experiments.benchmarks.attention_passes import DIRECTIONS, directed, useful_flops
from experiments.benchmarks.cpu_timing import cpu_seconds, product_rate
from experiments.benchmarks.ring_layer import on_ring, ring_mesh

DEVICES, HEADS, HEAD_DIM = 8, 4, 64
PEER_CHUNKS = ((256, 512), (256, 256), (512, 512))


class Speed(NamedTuple):
    """Describes the speed of one way to compute attention.

    Attributes:
        tokens: length of the sequence.
        name: the backbone or peer.
        direction: "forward", or "both" for forward and backward.
        seconds: CPU seconds of a call, the median.
        utilisation: useful causal FLOP/s over the rate of a matrix product in the same run.
    """

    tokens: int
    name: str
    direction: str
    seconds: float
    utilisation: float


def speeds(tokens: int, rounds: int = 9) -> list[Speed]:
    """Measures every backbone and installed peer: float32, batch 1, 4 heads of 64.

    Dense is called once.
    """
    mesh = ring_mesh(DEVICES)
    rng = np.random.default_rng(0)
    natural = [rng.standard_normal((1, tokens, HEADS, HEAD_DIM), np.float32) for _ in range(4)]
    arrays = [jax.device_put(to_layout(x, DEVICES, "zigzag"), on_ring(mesh)) for x in natural]
    attentions = {
        "ours": partial(attention, mesh=mesh),
        "all-gather ring": partial(attention, mesh=mesh, backbone="all_gather"),
    }
    attentions |= peers(mesh)
    calls = {
        (name, direction): jax.jit(directed(attend, direction)).lower(*arrays).compile()
        for name, attend in attentions.items()
        for direction in DIRECTIONS
    }
    seconds: dict[tuple[str, str], list[float]] = {key: [] for key in calls}
    rates: list[float] = []
    for _ in range(rounds):
        for key, call in calls.items():
            rates.append(product_rate())
            seconds[key].append(cpu_seconds(call, *arrays))
    if tokens <= 8192:
        dense = partial(attention, backbone="dense")
        for direction in DIRECTIONS:
            call = jax.jit(directed(dense, direction)).lower(*natural).compile()
            seconds["dense XLA, 1 device", direction] = [cpu_seconds(call, *natural)]
    rate = float(np.median(rates))
    return [
        Speed(
            tokens,
            name,
            direction,
            float(np.median(spent)),
            useful_flops(tokens, HEADS, HEAD_DIM, direction) / float(np.median(spent)) / rate,
        )
        for (name, direction), spent in seconds.items()
    ]


def times_best_peer(rows: list[Speed]) -> list[float]:
    """Returns for each row how many times faster it is than the paper's own code.

    At that code's best chunk sizes; NaN if it is not installed.
    """
    best: dict[tuple[int, str], float] = {}
    for row in rows:
        if row.name.startswith("ringattention"):
            key = row.tokens, row.direction
            best[key] = min(row.seconds, best.get(key, row.seconds))
    return [best.get((row.tokens, row.direction), float("nan")) / row.seconds for row in rows]


def torch_speeds(tokens: int) -> list[Speed]:
    """Measures PyTorch's attention on 2 threads, in a process of its own.

    Returns no rows if PyTorch is not installed.
    """
    if importlib.util.find_spec("torch") is None:
        return []
    command = [sys.executable, "-m", "experiments.benchmarks.torch_attention", str(tokens)]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return [
        Speed(
            tokens,
            "PyTorch, native",
            direction,
            seconds,
            useful_flops(tokens, HEADS, HEAD_DIM, direction) / seconds / found["rate"],
        )
        for direction, seconds in found["seconds"].items()
    ]


def peers(
    mesh: Mesh, chunk_sizes: tuple[tuple[int, int], ...] = PEER_CHUNKS, dtype: Any = jnp.float32
) -> dict[str, Callable]:
    """Returns the paper's own package with each pair of chunk sizes; its layout is contiguous.

    Args:
        mesh: the ring.
        chunk_sizes: chunks of queries and of keys.
        dtype: that it computes in.

    Returns:
        Attention by name; none if the package is not installed.
    """
    if importlib.util.find_spec("ringattention") is None:
        print("ringattention is not installed (extra `peers`): left out")
        return {}
    # ringattention 0.1.2 asks for jax.lib.xla_bridge, which is gone from jax 0.8 on.
    from jax._src import xla_bridge

    jax.lib.xla_bridge = xla_bridge
    from ringattention import ringattention_jax  # after the line above, and optional

    spec = PartitionSpec(None, "ring")

    def attend(chunks: tuple[int, int], *arrays: jax.Array) -> jax.Array:
        setting = {
            "causal_block_size": 1,
            "deterministic": True,
            "dropout_rng": None,
            "attn_pdrop": 0.0,
            "query_chunk_size": chunks[0],
            "key_chunk_size": chunks[1],
            "dtype": dtype,
            "policy": jax.checkpoint_policies.nothing_saveable,
            "precision": None,
            "prevent_cse": False,
        }

        def local(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
            return ringattention_jax(query, key, value, None, None, None, "ring", True, setting)

        return jax.shard_map(
            local, mesh=mesh, in_specs=(spec,) * 3, out_specs=spec, check_vma=False
        )(*arrays)

    return {
        f"ringattention {chunks[0]},{chunks[1]}": partial(attend, chunks) for chunks in chunk_sizes
    }
