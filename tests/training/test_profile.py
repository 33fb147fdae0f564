"""The profile of suite `agent` finds every kind of work once."""

import pytest

from agentic_transformer.config import ModelConfig
from experiments.benchmarks import agent_models as models
from experiments.benchmarks.agent_profile import KINDS, instruction_kinds, shares

pytestmark = pytest.mark.slow


def test_the_time_of_a_step_is_told_apart_by_kind():
    spec = models.describe(2, 200, 4, 2, ModelConfig(width=16, layers=1))
    step, state, tokens = models.train_step(spec, rows=1, devices=1)
    compiled = step.lower(state, tokens).compile()

    def train():
        nonlocal state
        state, metrics = compiled(state, tokens)
        return metrics

    train()
    found = shares(train, compiled.as_text())
    assert list(found) == list(KINDS)
    assert all(share > 0 for share in found.values())
    assert abs(sum(found.values()) - 1) < 1e-9


PROGRAM = """
%fused (a: f32[4,8]) -> f32[4,4] {
  ROOT %dot.1 = f32[4,4] dot(%a, %a), lhs_contracting_dims={1}, rhs_contracting_dims={1}
}

%body (p: (s32[], f32[4,4])) -> (s32[], f32[4,4]) {
  %exp.1 = f32[4,4] exponential(%p)
  ROOT %dot.2 = f32[4,4] dot(%exp.1, %exp.1), lhs_contracting_dims={1}, rhs_contracting_dims={1}
}

ENTRY %main (x: f32[4,8]) -> f32[4,4] {
  %fusion.1 = f32[4,4] fusion(%x), calls=%fused, metadata={op_name="jit(step)/jvp()/dot_general"}
  %while.1 = (s32[], f32[4,4]) while(%fusion.1), condition=%fused, body=%body
  %tanh.1 = f32[4,4] tanh(%while.1), metadata={op_name="jit(step)/jvp()/tanh"}
  ROOT %add.1 = f32[4,4] add(%tanh.1, %tanh.1), metadata={op_name="jit(step)/add"}
}
"""


def test_products_are_known_within_fusions_and_attention_by_its_loop():
    kinds = dict(instruction_kinds(PROGRAM))
    assert "while.1" not in kinds
    assert {name: kinds[name] for name in ("fusion.1", "exp.1", "dot.2", "tanh.1", "add.1")} == {
        "fusion.1": "layers, products",
        "exp.1": "attention, the rest",
        "dot.2": "attention, products",
        "tanh.1": "norms, activations, head",
        "add.1": "optimiser",
    }
