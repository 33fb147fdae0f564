"""Calls splash attention, jax's fused attention for TPUs.

The forward pass returns its log-sum-exp, but the public gradient drops the cotangent of the
log-sum-exp: the gradient of a ring would be silently wrong. This module calls the two functions
behind the public gradient. They take the log-sum-exp over all blocks, but they are private to jax.
`why_not` finds out whether this jax has them, and whether they take these arrays.

Splash attention hides a pair by a score of `_MASK_VALUE`, after the product of query and key, and
this decides how NaN travels. A NaN key makes NaN of the scores that are seen and of no other, so
in the forward pass only values need to be finite. In the backward pass all arrays are finite, and
a query whose gradient must be NaN has a log-sum-exp `_NAN_LSE`: the weights exp(S - lse) are
infinite where it sees a key and 0 where it does not, and infinity times its cotangent, 0, is NaN.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from agentic_transformer.ring.kernels.base import Kernel
from agentic_transformer.ring.kernels.fused import PartialOutput, merge
from agentic_transformer.ring.kernels.splash_mask import quick_mask
from agentic_transformer.ring.masks import Mask, MaskKind
from agentic_transformer.ring.nonfinite import zero_nonfinite

DTYPES = ("bfloat16", "float32")
MAX_HEAD_DIM = 256

_BLOCKS = (512, 256, 128)
"""Tokens of a block, the largest that fits first. No speed was measured."""
_MAX_TOKENS = 512 * _BLOCKS[0]
"""Most queries, and most keys, of a call; longer arrays are cut. For each pair of blocks a TPU
holds three bytes in its scalar memory of 1 MiB. Blocks of 1,024 do not fit its vector memory in
float32."""

_MASK_VALUE = -0.7 * float(np.finfo(np.float32).max)
_NAN_LSE = 0.9 * _MASK_VALUE
_NOTHING = 0.5 * _MASK_VALUE
"""A log-sum-exp below this is one of hidden scores alone."""

_PAD_ID = -(2**31)
"""Segment of keys that pad a block; the ids of real queries start above it."""

_BACKWARD = ["q", "k", "v", "segment_ids", "sinks", "logsumexp", "do", "di"]
_SETTINGS = {
    "bq", "bkv", "is_mqa", "mask_info", "mask_value", "attn_logits_soft_cap", "q_layout",
    "k_layout", "v_layout", "mask_function", "interpret",
}  # fmt: skip
_SETTINGS_OF = {
    "_splash_attention_bwd_dq": _SETTINGS,
    "_splash_attention_bwd_dkv": _SETTINGS | {"bkv_compute", "use_fused_bwd_kernel"},
}


@dataclass(frozen=True)
class SplashKernel(Kernel):
    """Calls splash attention once for every pair of blocks, and merges what it returns.

    Its scores are those of query / sqrt(head_dim), which is rounded to query's dtype: exact where
    head_dim is a power of 4, as 64 is; else 16-bit queries are rounded once more.

    Attributes:
        interpret: whether to compute the calls on a CPU, slowly, for tests.
    """

    interpret: bool = False
    supports_dynamic = False
    supports_windows = True

    def init(self, query: jax.Array, key: jax.Array) -> None:
        """Returns None: the first call is on whole blocks, and its result is the first carry."""

    def forward(self, carry, query, key, value, mask: Mask) -> PartialOutput:
        """Attends to the keys, and merges the result into the carry."""
        parts: dict[int, PartialOutput] = {}
        for cut in _cuts(query.shape[2], key.shape[2], mask):
            part = self._attend(
                cut.of_queries(query), cut.of_keys(key), cut.of_keys(value), cut.mask
            )
            start = cut.queries.start
            parts[start] = merge(parts[start], part) if start in parts else part
        part = PartialOutput(*map(_joined, zip(*parts.values(), strict=True)))
        return part if carry is None else merge(carry, part)

    def _attend(self, query, key, value, mask: Mask) -> PartialOutput:
        """Attends to the keys in one call."""
        call = _Call.of(query, key, mask, self.interpret)
        with _precision(query.dtype):
            out, (lse,) = jax.vmap(call.attend())(
                call.pad_queries(_scaled(query)),
                call.pad_keys(key),
                call.pad_keys(zero_nonfinite(value)),
                call.segment_ids(mask),
            )
        tokens = query.shape[2]
        return PartialOutput(out[:, :, :tokens].astype(jnp.float32), lse[:, :, :tokens])

    def finish(self, carry: PartialOutput, query: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns (out, lse)."""
        nothing = carry.lse < _NOTHING
        out = jnp.where(nothing[..., None], 0, carry.out)
        return out, jnp.where(nothing, -jnp.inf, carry.lse)

    def backward(self, residual, dquery, query, key, value, mask: Mask) -> tuple:
        """Adds to dquery; returns the block's dkey and dvalue."""
        sums: list[dict[int, jax.Array]] = [{}, {}, {}]
        for cut in _cuts(query.shape[2], key.shape[2], mask):
            gradients = self._differentiate(
                tuple(map(cut.of_queries, residual)),
                cut.of_queries(query),
                cut.of_keys(key),
                cut.of_keys(value),
                cut.mask,
            )
            starts = cut.queries.start, cut.keys.start, cut.keys.start
            for parts, start, dx in zip(sums, starts, gradients, strict=True):
                parts[start] = parts[start] + dx if start in parts else dx
        more, dkey, dvalue = (_joined(parts.values()) for parts in sums)
        return dquery + more * query.shape[-1] ** -0.5, dkey, dvalue

    def _differentiate(self, residual, query, key, value, mask: Mask) -> tuple[jax.Array, ...]:
        """Returns the gradients of query / sqrt(head_dim), key and value, in one call."""
        cotangent, lse, delta = residual
        bad = jnp.isnan(lse)
        query, cotangent = (jnp.where(bad[..., None], 0, x) for x in (query, cotangent))
        call = _Call.of(query, key, mask, self.interpret)
        arrays = (
            call.pad_queries(_scaled(query)),
            call.pad_keys(zero_nonfinite(key)),
            call.pad_keys(zero_nonfinite(value)),
            call.segment_ids(mask),
            None,
            call.pad_queries(jnp.where(bad, _NAN_LSE, lse), jnp.inf),
            call.pad_queries(cotangent),
            call.pad_queries(jnp.where(bad, 0, delta)),
        )
        with _precision(query.dtype):
            gradients = jax.vmap(call.differentiate())(*arrays)
        sizes = query.shape[2], key.shape[2], key.shape[2]
        return tuple(
            dx[:, :, :size].astype(jnp.float32) for dx, size in zip(gradients, sizes, strict=True)
        )


SPLASH_KERNEL = SplashKernel()


class _Cut(NamedTuple):
    """Holds which queries and keys a call takes, and its mask."""

    queries: slice
    keys: slice
    mask: Mask

    def of_queries(self, array: jax.Array) -> jax.Array:
        """Returns the part of an array (batch, heads, queries, ...)."""
        return array[:, :, self.queries]

    def of_keys(self, array: jax.Array) -> jax.Array:
        """Returns the part of an array (batch, key_heads, keys, ...)."""
        return array[:, :, self.keys]


def _cuts(queries: int, keys: int, mask: Mask) -> Iterator[_Cut]:
    """Cuts a pair of blocks into calls; it is one call, except for very long arrays.

    With a causal mask, queries and keys are equally many. A window is not cut: splash attention
    holds only the pairs of blocks in it.
    """
    whole = max(queries, keys)
    size = whole if mask.window is not None else min(whole, _MAX_TOKENS)
    for row in range(0, queries, size):
        for column in range(0, keys, size):
            kind = MaskKind.FULL if row != column else mask.kind
            if mask.kind is MaskKind.CAUSAL and column > row:
                continue
            rows, columns = slice(row, row + size), slice(column, column + size)
            cut = Mask(kind, _of(mask.queries, rows), _of(mask.keys, columns), mask.window)
            yield _Cut(rows, columns, cut)


def _of(side: Any, part: slice) -> Any:
    """Returns the intervals of a part of the queries, or the positions of a part of the keys."""
    return jax.tree.map(lambda array: array[..., part], side)


def _joined(parts: Iterable[jax.Array]) -> jax.Array:
    """Joins the parts of an array (batch, heads, tokens, ...) that was cut."""
    return jnp.concatenate(list(parts), axis=2)


@dataclass(frozen=True)
class _Call:
    """Describes one call: the sizes of arrays padded to blocks, and the mask.

    A block is a multiple of 128 tokens. A causal mask hides the padding of keys from all queries
    that are not padding; with another mask the padding is a segment of its own.
    """

    batch: int
    heads: int
    queries: int
    keys: int
    kind: MaskKind
    window: int | None
    interpret: bool

    @classmethod
    def of(cls, query: jax.Array, key: jax.Array, mask: Mask, interpret: bool) -> _Call:
        """Returns the call for arrays (batch, heads or key_heads, tokens, head_dim)."""
        queries, keys = (_padded(x.shape[2]) for x in (query, key))
        return cls(*query.shape[:2], queries, keys, mask.kind, mask.window, interpret)

    def pad_queries(self, array: jax.Array, fill: float = 0) -> jax.Array:
        """Pads (batch, heads, tokens, ...) to whole blocks of queries."""
        return _pad(array, self.queries, fill, axis=2)

    def pad_keys(self, array: jax.Array) -> jax.Array:
        """Pads (batch, key_heads, tokens, ...) to whole blocks of keys."""
        return _pad(array, self.keys, 0, axis=2)

    def segment_ids(self, mask: Mask) -> Any:
        """Returns the segments of the padded queries and keys; None if there need be none."""
        ids = mask.queries.segment, mask.keys.segment
        if ids[0] is None:
            sizes = mask.queries.low.size, mask.keys.position.size
            if self.kind is MaskKind.CAUSAL or sizes[1] == self.keys:
                return None
            ids = tuple(jnp.zeros((self.batch, size), jnp.int32) for size in sizes)
        padded = (
            _pad(jnp.maximum(array, _PAD_ID + 1), size, _PAD_ID, axis=1)
            for array, size in zip(ids, (self.queries, self.keys), strict=True)
        )
        return _splash().SegmentIds(*padded)

    def attend(self) -> Any:
        """Returns attention of one row, (query, key, value, segments) -> (out, (lse,))."""
        blocks = _block(self.queries), _block(self.keys)
        names = ("block_q", "block_kv", "block_q_dkv", "block_kv_dkv", "block_q_dq", "block_kv_dq")
        return _splash().make_splash_mha(
            self._mask(),
            block_sizes=_splash().BlockSizes(**dict(zip(names, blocks * 3, strict=True))),
            save_residuals=True,
            mask_value=_MASK_VALUE,
            head_shards=1,
            q_seq_shards=1,
            interpret=self.interpret,
        )

    def differentiate(self) -> Any:
        """Returns the gradients of one row as a function of the operands `_BACKWARD`."""
        splash, attend = _splash(), self.attend()
        layout = splash.QKVLayout.HEAD_DIM_MINOR
        settings = {
            "bq": _block(self.queries),
            "bkv": _block(self.keys),
            "is_mqa": False,
            "mask_value": _MASK_VALUE,
            "attn_logits_soft_cap": None,
            "q_layout": layout,
            "k_layout": layout,
            "v_layout": layout,
            "mask_function": attend.kwargs["mask_function"],
            "interpret": self.interpret,
        }

        def gradients(*operands: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
            dquery = splash._splash_attention_bwd_dq(
                *operands, mask_info=attend.dq_mask_info, **settings
            )
            # With `use_fused_bwd_kernel`, dquery of every block of keys would be held at once.
            _, dkey, dvalue = splash._splash_attention_bwd_dkv(
                *operands,
                mask_info=attend.dkv_mask_info,
                bkv_compute=settings["bkv"],
                use_fused_bwd_kernel=False,
                **settings,
            )
            return dquery, dkey, dvalue

        return gradients

    def _mask(self) -> Any:
        """Returns the mask, which is the same for all heads."""
        from jax.experimental.pallas.ops.tpu import splash_attention  # for the reason of `_splash`

        shape = self.queries, self.keys
        if self.kind is MaskKind.FULL:
            mask = splash_attention.FullMask(shape)
        elif self.window is None:
            mask = quick_mask("CausalMask")(shape)
        else:
            mask = quick_mask("LocalMask")(shape, (self.window - 1, 0), offset=0)
        return splash_attention.MultiHeadMask([mask] * self.heads)


def why_not(platform: str, dtype: Any, head_dim: int) -> str:
    """Returns why splash attention cannot be called, in a few words; empty if it can.

    Args:
        platform: of the devices.
        dtype: of query, key and value.
        head_dim: of query, key and value.
    """
    name = jnp.dtype(dtype).name
    if platform != "tpu":
        return f"it needs a TPU, and the devices are {platform}"
    if name not in DTYPES:
        return f"it needs {' or '.join(DTYPES)}, not {name}"
    if head_dim > MAX_HEAD_DIM:
        return f"it needs a head_dim of at most {MAX_HEAD_DIM}, not {head_dim}"
    return _missing()


@cache
def _missing() -> str:
    """Returns what this jax lacks; empty if nothing."""
    try:
        splash = _splash()
    except ImportError as error:
        return f"jax {jax.__version__} has no splash attention ({error})"
    if problem := signature_problem(splash):
        return f"jax {jax.__version__} calls splash attention in another way: {problem}"
    return ""


def signature_problem(splash: ModuleType) -> str:
    """Returns how jax's private functions differ from what is called here; empty if they fit."""
    kinds = inspect.Parameter
    for name, expected in _SETTINGS_OF.items():
        try:
            parameters = inspect.signature(getattr(splash, name)).parameters
        except (AttributeError, ValueError, TypeError) as error:
            return str(error)
        operands = [key for key, p in parameters.items() if p.kind is kinds.POSITIONAL_OR_KEYWORD]
        settings = {key for key, p in parameters.items() if p.kind is kinds.KEYWORD_ONLY}
        if operands != _BACKWARD:
            return f"{name} takes {', '.join(operands)}"
        if settings != expected:
            return f"{name} has the settings {', '.join(sorted(settings))}"
    made = set(inspect.signature(splash.SplashAttentionKernel).parameters)
    if lacking := {"dq_mask_info", "dkv_mask_info", "kwargs"} - made:
        return f"SplashAttentionKernel has no {', '.join(sorted(lacking))}"
    return ""


def _splash() -> ModuleType:
    """Imports splash attention, which takes a while, and is experimental in jax."""
    from jax.experimental.pallas.ops.tpu.splash_attention import (  # see above
        splash_attention_kernel,
    )

    return splash_attention_kernel


def _precision(dtype: Any) -> AbstractContextManager:
    """Returns the precision of products in a call; splash knows only "default" and "highest".

    Products of 16-bit numbers have only the default. Those of float32 are "highest" if any other
    precision than the default is asked for.
    """
    asked = jax.config.jax_default_matmul_precision
    is_default = dtype != jnp.float32 or asked in (None, "default", "fastest", "bfloat16")
    return jax.default_matmul_precision("default" if is_default else "highest")


def _scaled(query: jax.Array) -> jax.Array:
    """Returns query / sqrt(head_dim), rounded once."""
    return (query.astype(jnp.float32) * query.shape[-1] ** -0.5).astype(query.dtype)


def _padded(tokens: int) -> int:
    """Rounds tokens up to whole blocks, of the largest size that adds an eighth at most, or 128."""
    sizes = (tokens + -tokens % block for block in _BLOCKS)
    return next((size for size in sizes if size - tokens <= tokens // 8), tokens + -tokens % 128)


def _block(tokens: int) -> int:
    """Returns the largest block that divides padded tokens."""
    return next(block for block in _BLOCKS if tokens % block == 0)


def _pad(array: jax.Array, size: int, fill: float, axis: int) -> jax.Array:
    """Pads an axis to a size."""
    widths = [(0, 0)] * array.ndim
    widths[axis] = (0, size - array.shape[axis])
    return jnp.pad(array, widths, constant_values=fill)
