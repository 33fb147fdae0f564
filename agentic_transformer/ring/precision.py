"""Names the precision of float32 matrix products.

By default a GPU multiplies float32 matrices in TF32 and a TPU in bfloat16. The errors of attention
are then 1e-3 instead of 1e-6. "highest" asks for float32 products; "default" leaves the choice to
the platform. Products of 16-bit inputs are the same with both.
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
