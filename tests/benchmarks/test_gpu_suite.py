"""The suite `gpu`, whole and small on a CPU, and what its parts compute."""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from agentic_transformer.ring import from_layout, to_layout
from agentic_transformer.ring.kernels.cudnn import CUDNN_KERNEL
from experiments.benchmarks import gpu
from experiments.benchmarks.gpu_attention_calls import PlainAttention, fused_kernel, random_arrays
from experiments.benchmarks.gpu_exactness import exact_attention
from experiments.benchmarks.gpu_ring_share import calls_alone, share
from experiments.benchmarks.gpu_timing import Clock, measure_row
from tests.tolerances import assert_close

pytestmark = pytest.mark.slow

RING, TOKENS, HEADS, HEAD_DIM = 3, 8, 2, 4


def test_every_part_measures_all_of_its_rows_and_draws_a_figure(tmp_path, monkeypatch):
    """A part that dies before them says so, and the others go on."""
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # compiling takes most of the time
    parts = list(gpu._PARTS)
    monkeypatch.setattr(gpu, "_PARTS", {"absent": 130, **gpu._PARTS})
    gpu.run(tmp_path, seconds=3600)  # the machine may be busy
    assert "ended by code 1 after 0 rows" in (tmp_path / "absent.csv").read_text()
    for part in parts:
        table = pd.read_csv(tmp_path / f"{part}.csv")
        assert len(table), part
        assert "note" not in table, f"{part}: {table.note.dropna().tolist()}"
        assert (tmp_path / f"{part}.png").stat().st_size > 0
    # Rounded to their dtype: bfloat16 keeps 8 bits, and several roundings follow each other.
    errors = pd.read_csv(tmp_path / "exactness.csv").groupby("dtype")[["output", "dquery"]].max()
    assert (errors.loc["bfloat16"] < 16 * 2**-9).all()
    assert (errors.loc["float32"] < 64 * 2**-24).all()


def test_exact_attention_is_the_gradient_of_attention():
    arrays = random_arrays((1, 6, HEADS, HEAD_DIM), jnp.float32)
    expected = jax.vjp(lambda *qkv: jax.nn.dot_product_attention(*qkv, is_causal=True), *arrays[:3])
    found = exact_attention(*arrays)
    for ours, theirs in zip(found, (expected[0], *expected[1](arrays[3])), strict=True):
        assert_close(ours, theirs, 4 * 6 + 2 * HEAD_DIM)


@pytest.mark.parametrize("device", range(RING))
def test_a_share_is_what_its_device_computes_where_all_devices_hold_the_same(device):
    """The block of one device stands at every place of the ring."""
    block = random_arrays((1, TOKENS, HEADS, HEAD_DIM), jnp.float32)
    natural = [from_layout(jnp.tile(x, (1, RING, 1, 1)), RING, "zigzag") for x in block]
    out, dquery, *_ = (to_layout(x, RING, "zigzag") for x in exact_attention(*natural))
    kernel = fused_kernel(jnp.dtype(jnp.float32), HEAD_DIM)
    assert isinstance(kernel.fused, PlainAttention)
    assert kernel.token_axis == CUDNN_KERNEL.token_axis  # or a GPU would mistake the axes
    found = share(kernel, RING, "both")(jnp.int32(device), *block)
    place = slice(device * TOKENS, (device + 1) * TOKENS)
    operations = 4 * RING * TOKENS + 2 * HEAD_DIM
    assert_close(found[0], out[:, place], operations, 4)
    assert_close(found[1], dquery[:, place], operations, 4)
    alone = calls_alone(kernel, RING, "both")(jnp.int32(device), *block)
    assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(alone))


def test_a_row_that_fails_or_comes_too_late_says_why():
    def fail():
        raise ValueError("out of memory\nand more")

    row, later = {"tokens": 4}, Clock(np.inf)
    assert measure_row(later, 1, row, lambda: {"ms": 2.0}) == {"tokens": 4, "ms": 2.0}
    assert measure_row(later, 1, row, fail) == {"tokens": 4, "note": "ValueError: out of memory"}
    assert measure_row(Clock(0), 1, row, fail)["note"] == "left out: no time left"
