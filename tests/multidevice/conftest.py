"""Eight virtual CPU devices; these tests run in a process of their own (`pytest
tests/multidevice`)."""

import os

# Of two numbers XLA takes the last.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)

import jax
import pytest


@pytest.fixture(scope="session", autouse=True)
def eight_devices() -> None:
    """Fails early, and says why, if jax was imported before this file."""
    assert jax.device_count() == 8, (
        "jax was imported before tests/multidevice/conftest.py: run tests/multidevice by itself"
    )
