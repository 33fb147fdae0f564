"""Makes masks for splash attention that do not take long to read.

Splash attention reads a mask while a program is traced: it asks of each block of queries and keys
whether any and whether all of its pairs are seen. For jax's own masks it evaluates all pairs. At
128,000 tokens that takes a minute for each program.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import jax
import numpy as np

_SMALL_MASK = {"CausalMask": (), "LocalMask": ((149, 0), 0)}
"""What follows the shape, for a mask that hides some blocks and shows others in part or whole."""


@cache
def quick_mask(kind: str) -> type:
    """Returns a class of masks, for as many keys as queries, that splash attention reads quickly.

    Args:
        kind: name of jax's own class, one of `_SMALL_MASK`. If this jax reads ours in another way
            than its own, its own is returned.
    """
    from jax.experimental.pallas.ops.tpu import splash_attention  # takes a while

    plain = getattr(splash_attention, kind)

    class Corners(plain):
        """Answers for the four corners of a block in place of all its pairs.

        They tell whether any and whether all pairs are seen: a query sees an interval of keys that
        ends with its own key, and queries and keys are cut into the same blocks.
        """

        def __getitem__(self, block: tuple[slice, slice]) -> np.ndarray:
            queries, keys = (np.array([part.start, part.stop - 1]) for part in block)
            return self.mask_function(queries[:, None], keys[None])

    ours, own = (_what_is_read(mask((512, 512), *_SMALL_MASK[kind])) for mask in (Corners, plain))
    return Corners if jax.tree.all(jax.tree.map(np.array_equal, ours, own)) else plain


def _what_is_read(mask: Any) -> list[Any]:
    """Returns what splash attention reads from a mask, for each of its three calls."""
    from jax.experimental.pallas.ops.tpu import splash_attention  # takes a while

    with jax.ensure_compile_time_eval():
        masks = splash_attention.MultiHeadMask([mask])
        attend = splash_attention.make_splash_mha(masks, head_shards=1, q_seq_shards=1)
    return [attend.fwd_mask_info, attend.dq_mask_info, attend.dkv_mask_info]
