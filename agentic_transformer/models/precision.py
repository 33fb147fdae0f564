"""Chooses the precision of float32 matrix products in models."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import jax


def matmul_precision(precision: str) -> AbstractContextManager:
    """Returns a context in which float32 products that are traced have a precision.

    Accelerators round factors to TF32 or bfloat16 unless they are asked for "highest". A choice
    that the user has made by `jax.default_matmul_precision` comes first.

    Args:
        precision: of `model.precision`: "highest" or "default".
    """
    if jax.config.jax_default_matmul_precision is not None:
        return nullcontext()
    # "default" is set too, because attention uses "highest" where nothing is set.
    return jax.default_matmul_precision(precision)


def precision_in_use(precision: str) -> str:
    """Returns the precision of float32 products that are traced now: the user's choice comes first.

    Args:
        precision: of `model.precision`: "highest" or "default".
    """
    return jax.config.jax_default_matmul_precision or precision
