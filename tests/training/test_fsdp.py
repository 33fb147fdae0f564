"""How a state that is cut over devices is counted and gathered."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agentic_transformer.training.fsdp import all_gather_params, shard_shape
from agentic_transformer.training.sharding import make_mesh


@pytest.mark.parametrize(
    ("shape", "devices", "part"),
    [
        ((3200, 9600), 256, (1600, 75)),  # 128 parts of the longest axis, 2 of the next
        ((9, 4), 6, (3, 2)),  # prime factors of their own
        ((4, 9), 6, (2, 3)),
        ((35,), 6, (35,)),
        ((), 8, ()),
    ],
)
def test_a_device_holds_the_part_that_divides(shape, devices, part):
    assert shard_shape(shape, devices) == part


def test_matrices_are_gathered_in_the_type_that_is_asked_for_and_vectors_in_their_own():
    """Gradients come back in the types of the parameters."""
    params = {"matrix": jnp.full((2, 3), 1 / 3), "vector": jnp.full(3, 1 / 3)}
    mesh = make_mesh(1, jax.devices()[:1])

    def gathered(params):
        return all_gather_params(params, mesh, jnp.bfloat16)

    whole, backward = jax.vjp(gathered, params)
    assert {name: x.dtype for name, x in whole.items()} == {
        "matrix": jnp.bfloat16,
        "vector": np.float32,
    }
    np.testing.assert_array_equal(whole["vector"], params["vector"])
    (gradients,) = backward(jax.tree.map(lambda x: jnp.full_like(x, 3.0), whole))
    for name, gradient in gradients.items():
        assert gradient.dtype == np.float32
        np.testing.assert_array_equal(gradient, np.full(params[name].shape, 3.0))
