"""A cached compilation is one with the same flags of the compiler."""

import pytest

from agentic_transformer.capacity import compile_cache
from agentic_transformer.capacity.hardware import topology
from agentic_transformer.capacity.outcome import Refused
from agentic_transformer.capacity.workload import Workload
from agentic_transformer.config import ModelConfig


@pytest.mark.parametrize("variable", ["XLA_FLAGS", "LIBTPU_INIT_ARGS", "JAX_ENABLE_X64"])
def test_another_flag_is_another_compilation(tmp_path, monkeypatch, variable):
    """Without one, with one, and without it again: compiled twice, each outcome found again."""
    workload = Workload(topology("v5e:4x4"), ModelConfig(), 1024, 24, 6, 1000, 4)
    outcomes = iter([Refused(1, 2), Refused(3, 4)])
    monkeypatch.setattr(
        compile_cache.compiler, "compile_step", lambda workload, fast: next(outcomes)
    )
    monkeypatch.delenv(variable, raising=False)
    plain = compile_cache.CompileCache(tmp_path)
    assert plain(workload, fast=True) == Refused(1, 2)
    monkeypatch.setenv(variable, "1")
    flagged = compile_cache.CompileCache(tmp_path)
    assert flagged(workload, fast=True) == Refused(3, 4)
    monkeypatch.delenv(variable)
    assert compile_cache.CompileCache(tmp_path)(workload, fast=True) == Refused(1, 2)
    assert next(outcomes, None) is None
