"""The compiler's messages are read; if it is installed, the estimate agrees with it."""

import dataclasses

import pytest

from agentic_transformer.capacity import compiler, memory
from agentic_transformer.capacity.compilers.tpu import parse_refusal
from agentic_transformer.capacity.hlo_permutes import (
    Permute,
    count_conditionals,
    count_fused_calls,
    read_permutes,
)
from agentic_transformer.capacity.outcome import Refused
from tests.capacity.test_estimates import MODEL, workload

needs_compiler = pytest.mark.skipif(
    not compiler.available(), reason="the extra `tpu` is not installed"
)
GIB = 2**30


@pytest.mark.parametrize(
    ("said", "required", "limit"),
    [
        (
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
            "temporaries (97.06G) exceeds available HBM (95.74G).",
            97.06,
            95.74,
        ),
        (
            "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory "
            "space hbm. Used 20.10G of 15.75G hbm. Exceeded hbm capacity by 4.35G.",
            20.10,
            15.75,
        ),
    ],
)
def test_refusals_are_read(said, required, limit):
    assert parse_refusal(said) == Refused(round(required * GIB), round(limit * GIB))


def test_other_errors_are_not_refusals():
    assert (
        parse_refusal(
            "INVALID_ARGUMENT: Ran out of memory in memory space hbm. Used 1.00G of 2.00G hbm."
        )
        is None
    )
    vmem = (
        "RESOURCE_EXHAUSTED: Ran out of memory in memory space vmem. Used 20.10M of 16.00M vmem. "
        "Arguments lie in hbm."
    )
    assert parse_refusal(vmem) is None
    assert parse_refusal("RESOURCE_EXHAUSTED: too many requests") is None


def test_permutes_are_read():
    # A line of the program ends without a backslash.
    program = """
      %collective-permute-start.1 = (bf16[1,32,8192,128]{3,2,1,0:T(8,128)}, \
bf16[1,32,8192,128]{3,2,1,0}, u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%a), \
metadata={op_name="jit(step)/jvp()/while/body/shard_map/while/body/ppermute" stack_frame_id=1}
      %fusion = f32[2] fusion(%c), kind=kLoop, calls=%f
      %collective-permute-start.2 = (s32[1,8192]{1,0}, s32[1,8192]{1,0}) \
collective-permute-start(%b), metadata={op_name="jit(step)/transpose(jvp())/while/body/\
checkpoint/rematted_computation/shard_map/while/body/ppermute"}
      %while.3 = f32[2] while(%c), condition=%d, body=%e
      %collective-permute-done.2 = s32[1,8192]{1,0} \
collective-permute-done(%collective-permute-start.2)
      %collective-permute-done.1 = bf16[2] \
collective-permute-done((bf16[1,2]{1,0}, u32[]) %collective-permute-start.1)
      %collective-permute-start = (f32[256,4]{1,0}, f32[256,4]{1,0}) \
collective-permute-start(%b), metadata={op_name="jit(step)/transpose(jvp())/dot_general"}
      %collective-permute-done = f32[2] collective-permute-done(%collective-permute-start)
    """
    assert read_permutes(program) == [
        Permute(True, "forward again", 4 * 8192, True, True),
        Permute(True, "forward", 2 * 32 * 8192 * 128, True, True),
        Permute(False, "backward", 4 * 1024, False, False),
    ]


def test_fused_attention_counts_as_products():
    program = """
      %collective-permute-start = (bf16[2], bf16[2]) collective-permute-start(%a)
      %custom-call = bf16[2] custom-call(%c), custom_call_target="{}"
      %collective-permute-done = bf16[2] collective-permute-done(%collective-permute-start)
    """
    for target, counts in {"tpu_custom_call": True, "ConcatBitcast": False}.items():
        (permute,) = read_permutes(program.format(target))
        assert permute.beside_computation == permute.beside_products == counts


def test_the_program_of_a_gpu_is_read():
    """Permutes that XLA merged, calls of cuDNN and cuBLAS, and a branch."""
    program = """
      %collective-permute-start = ((bf16[1,16,4000,64]{3,2,1,0}, f32[4000]{0}), \
(bf16[1,16,4000,64]{3,2,1,0}, f32[4000]{0})) collective-permute-start(%a, %b), \
metadata={op_name="jit(step)/jvp()/shard_map/ppermute"}
      %out = (bf16[2], f32[2], u8[0]) custom-call(%q, %k), custom_call_target="__cudnn$fmhaSoftmax"
      %collective-permute-done = (bf16[2], f32[2]) \
collective-permute-done(%collective-permute-start)
      %conditional.3 = f32[2] conditional(%index, %a, %b), branch_computations={%x, %y}
      %collective-permute-start.1 = (bf16[2]{0}, bf16[2]{0}) collective-permute-start(%a)
      %gemm = (bf16[2], s8[9]) custom-call(%c), custom_call_target="__cublas$lt$matmul"
      %collective-permute-done.1 = bf16[2] collective-permute-done(%collective-permute-start.1)
    """
    assert read_permutes(program) == [
        Permute(True, "forward", 2 * 16 * 4000 * 64 + 4 * 4000, True, True, True),
        Permute(False, "forward", 4, True, True, False),
    ]
    assert (count_fused_calls(program), count_conditionals(program)) == (1, 1)


def test_what_a_branch_computes_stands_beside_the_permutes_around_it():
    program = """
%low.1 (x: f32[2]) -> f32[2] {
  %out = (bf16[2], f32[2], u8[0]) custom-call(%q, %k), custom_call_target="__cudnn$fmhaSoftmax"
}

%high.2 (x: f32[2]) -> f32[2] {
  %copy = f32[2] copy(%x)
}

ENTRY %main (x: f32[2]) -> f32[2] {
  %collective-permute-start = (bf16[2]{0}, bf16[2]{0}) collective-permute-start(%a)
  %conditional = f32[2] conditional(%when, %a, %b), true_computation=%low.1, \
false_computation=%high.2
  %collective-permute-done = bf16[2] collective-permute-done(%collective-permute-start)
  %collective-permute-start.1 = (bf16[2]{0}, bf16[2]{0}) collective-permute-start(%a)
  %conditional.1 = f32[2] conditional(%index, %a), branch_computations={%high.2, %high.2}
  %collective-permute-done.1 = bf16[2] collective-permute-done(%collective-permute-start.1)
}
"""
    beside = [permute.beside_attention for permute in read_permutes(program)]
    assert beside == [True, False]


@pytest.mark.slow
@needs_compiler
def test_what_does_not_fit_is_refused():
    found = compiler.compile_step(workload("v5e:2x2", tokens=10**6), fast=True)
    assert isinstance(found, Refused)
    assert (
        found.required
        > found.available
        == pytest.approx(workload("v5e:2x2").topology.memory, rel=1e-3)
    )


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize(
    ("name", "width", "layers", "attention", "tokens"),
    [
        ("v5e:2x2", 1024, 24, "ring", 16384),
        ("v5e:2x4", 2048, 16, "ring", 8192),
        ("v5e:2x2", 2048, 8, "blockwise", 16384),
    ],
)
def test_the_estimate_is_within_a_tenth_of_the_compilers_peak(
    name, width, layers, attention, tokens
):
    """Cheap configurations that `memory.COEFFICIENTS` were not fitted to."""
    model = dataclasses.replace(
        MODEL, width=width, layers=layers, heads=width // 128, attention=attention
    )
    where = workload(name, model, tokens, **({} if attention == "ring" else {"ring": 1}))
    assert memory.estimate(where).peak == pytest.approx(
        compiler.compile_step(where, fast=True).memory.peak, rel=0.1
    )
