"""Products of a model have the precision of its setting, unless the user has chosen one."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from agentic_transformer.config import ModelConfig
from agentic_transformer.models.precision import matmul_precision
from agentic_transformer.ring.kernels import NAMES
from agentic_transformer.ring.precision import PRECISIONS

CHOICES = {field.name: field.metadata["choices"] for field in dataclasses.fields(ModelConfig)}


def precision_of(setting):
    def product(x):
        with matmul_precision(setting):
            return x @ x

    return jax.jit(product).lower(jnp.ones((4, 4))).as_text().count("HIGHEST")


def test_highest_is_asked_for_and_default_is_not():
    assert precision_of("highest") and not precision_of("default")


@pytest.mark.parametrize("setting", PRECISIONS)
def test_the_choice_of_the_user_comes_first(setting):
    with jax.default_matmul_precision("tensorfloat32"):
        assert not precision_of(setting)
    with jax.default_matmul_precision("highest"):
        assert precision_of(setting)


def test_settings_name_what_the_ring_has():
    assert CHOICES["kernel"] == NAMES and CHOICES["precision"] == PRECISIONS
