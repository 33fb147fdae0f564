"""The flags that a command sets for its devices."""

import os
import subprocess
import sys

import pytest

from experiments.cli import devices

FLAG = "--xla_gpu_collective_permute_combine_threshold_bytes"


@pytest.fixture
def flags(monkeypatch):
    """XLA_FLAGS after the call, where there are GPUs or not, from those of a user."""

    def after(given, **environment):
        environment = {"CUDA_VISIBLE_DEVICES": "0", "JAX_PLATFORMS": ""} | environment
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("XLA_FLAGS", given)
        devices.combine_transfers()
        return os.environ["XLA_FLAGS"]

    return after


def test_gpus_send_as_one_transfer_what_a_step_sends(flags):
    assert flags("") == f"{FLAG}={2**40}"
    assert flags("--xla_dump_to=x") == f"--xla_dump_to=x {FLAG}={2**40}"


def test_flags_of_the_user_and_of_other_devices_stay(flags):
    assert flags(f"{FLAG}=5") == f"{FLAG}=5"
    assert flags("", JAX_PLATFORMS="cpu") == ""


def test_the_installed_xla_knows_the_flag():
    """XLA ends the process at an unknown one: then the flag has to go, or has a new name."""
    line = [sys.executable, "-c", "import jax; jax.devices()"]
    done = subprocess.run(
        line, env=os.environ | {"XLA_FLAGS": f"{FLAG}={2**40}"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
