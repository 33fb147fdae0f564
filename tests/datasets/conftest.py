"""Fixtures of the tests of this folder."""

import pytest
from fabricated import make_buffer


@pytest.fixture
def buffer(tmp_path):
    """A fabricated buffer of 12 episodes of 20 steps."""
    return make_buffer(tmp_path / "walker" / "rnd" / "buffer", 12)
