"""Names the precision of float32 matrix products.

A GPU multiplies float32 matrices in TF32 and a TPU in bfloat16, unless it is told otherwise. The
errors of attention are then 1e-3 and not 1e-6. "highest" tells it otherwise; "default" leaves the
platform its own way. Products of 16-bit inputs are the same in both.
"""

from __future__ import annotations

import jax

from agentic_transformer.ring.validation import check_one_of

PRECISIONS = ("highest", "default")


def resolve_precision(precision: str | None) -> str:
    """Returns the precision that was asked for.

    Args:
        precision: one of `PRECISIONS`; None: that of `jax.default_matmul_precision` if the user has
            set one, else "highest".

    Raises:
        ValueError: there is no such precision.
    """
    if precision is None:
        return jax.config.jax_default_matmul_precision or "highest"
    check_one_of("precision", precision, PRECISIONS)
    return precision
