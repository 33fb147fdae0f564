"""What is estimated without a compiler, against closed forms."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from flax import nnx

from agentic_transformer.capacity import estimate_settings, flops, memory, roofline
from agentic_transformer.capacity.hardware import FAMILIES, GIB, topology
from agentic_transformer.capacity.workload import Workload
from agentic_transformer.config import ModelConfig, PlanCommand
from agentic_transformer.models.transformer import AgenticTransformer
from agentic_transformer.ring import attention as backbones
from agentic_transformer.ring.kernels import NAMES, why_not
from agentic_transformer.ring.layout import positions
from agentic_transformer.ring.overlap import minimal_block
from experiments.benchmarks import plan as suite
from experiments.cli.packages import ROOT

MODEL = PlanCommand().model


def workload(name="v5e:4x4", model=MODEL, tokens=8192, **settings):
    where = topology(name)
    return Workload(where, model, tokens, 24, 6, 1000, **{"ring": where.devices, **settings})


def test_the_number_of_parameters():
    """A layer has four square matrices, a feedforward network with biases, and two norms."""
    h, layers, features = MODEL.width, MODEL.layers, 1 + 24 + 6 + 2 + 4
    of_layers = layers * (4 * h**2 + 8 * h**2 + 4 * h + h + 4 * h)
    around = (features + 1) * h + 1000 * h + 2 * h + (h + 1) * 6
    assert workload().parameters == of_layers + around


@pytest.mark.parametrize("scan_layers", [False, True])
def test_shapes_are_those_of_the_whole_model(scan_layers):
    model = dataclasses.replace(MODEL, width=64, heads=2, layers=3, scan_layers=scan_layers)
    planned = workload(model=model)
    whole = nnx.split(nnx.eval_shape(lambda: planned.spec.build(0)), nnx.Param)[1]
    shapes = [x.shape for x in jax.tree.leaves(whole)]
    assert sorted(planned.parameter_shapes) == sorted(shapes)


@pytest.mark.parametrize(
    ("width", "layers", "billions"),
    [(3200, 26, 3.2), (4096, 32, 6.5), (5120, 40, 12.6), (6656, 60, 31.9)],
)
def test_llama_shapes_have_the_parameters_of_their_layers(width, layers, billions):
    model = dataclasses.replace(
        MODEL, width=width, layers=layers, heads=width // 128 if width % 128 == 0 else 32
    )
    assert workload(model=model).parameters == pytest.approx(billions * 1e9, rel=0.02)


def test_state_takes_16_bytes_a_parameter():
    """The small arrays around the layers are padded to whole tiles."""
    found = memory.estimate(workload())
    assert found.state == pytest.approx(16 * workload().parameters / 16, rel=0.02)
    assert found.optimizer == 2 * found.parameters == 2 * found.gradients
    alone = memory.estimate(workload(ring=1))
    assert alone.state == found.state


def test_a_gpu_pads_nothing():
    wide = dataclasses.replace(MODEL, width=3200, layers=26, heads=32)
    found = workload("a100:8", wide)
    assert memory.estimate(found).state == pytest.approx(16 * found.parameters / 8, rel=1e-3)


def test_arrays_are_padded_to_tiles():
    """A width of 3200 on 256 devices is cut by 128 into 25 rows, which lie in 32."""
    wide = dataclasses.replace(MODEL, width=3200, layers=26, heads=32)
    exact = 16 * workload("v5e:16x16", wide).parameters / 256
    assert 1.05 * exact < memory.estimate(workload("v5e:16x16", wide)).state < 32 / 25 * exact


def test_kinds_grow_as_they_should():
    one, two, deeper = (
        memory.estimate(x)
        for x in (
            workload(),
            workload(tokens=16384),
            workload(model=dataclasses.replace(MODEL, layers=48)),
        )
    )
    # Inputs of layers, outputs of attention, and the log-sum-exp of 16 heads.
    assert one.checkpoints == 24 * 8192 * (2 * 1024 + 2 * 1024 + 4 * 16)
    full = memory.estimate(workload(model=dataclasses.replace(MODEL, remat="full")))
    assert full.checkpoints == 2 * 24 * 8192 * 1024
    assert full.peak - full.checkpoints == one.peak - one.checkpoints
    assert (two.checkpoints, two.ring) == (2 * one.checkpoints, 2 * one.ring)
    assert two.state == one.state
    assert (deeper.checkpoints, deeper.ring, deeper.working) == (
        2 * one.checkpoints,
        one.ring,
        one.working,
    )
    dense = [
        memory.estimate(
            workload(model=dataclasses.replace(MODEL, attention="dense"), tokens=tokens, ring=1)
        ).working
        for tokens in (2**17, 2**18)
    ]
    assert dense[1] == pytest.approx(4 * dense[0], rel=0.01)


def test_the_estimate_is_within_a_tenth_of_every_peak_that_was_compiled():
    """The committed figures are of many sizes, backbones and machines."""
    compiled = pd.read_csv(ROOT / "experiments/results/plan/accuracy.csv")
    platforms = compiled.topology.map(lambda name: topology(name).platform)
    for platform, at_least in (("tpu", 12), ("gpu", 8)):
        rows = compiled[platforms == platform]
        assert len(rows) >= at_least and rows.width.nunique() >= 2
    rows = compiled[platforms == "gpu"]
    assert {1, 8, 32} <= set(rows.ring) and {"full", "block"} <= set(rows.remat)
    for row in compiled.itertuples():
        shape = {"width": row.width, "layers": row.layers, "heads": row.heads}
        kind = {"attention": row.attention, "remat": row.remat}
        model = dataclasses.replace(MODEL, **shape, **kind)
        estimated = memory.estimate(
            workload(row.topology, model, row.tokens_a_device, ring=row.ring)
        ).peak
        assert estimated / GIB == pytest.approx(row.compiled, rel=0.1)


def test_the_suite_plans_what_is_modelled_and_judges_estimates_by_nothing_else():
    assert set(memory.COEFFICIENTS) == {machine.platform for machine in FAMILIES.values()}
    for coefficients in memory.COEFFICIENTS.values():
        assert set(coefficients) == set(suite.BACKBONES) == set(estimate_settings.BACKBONES)
    assert not any(
        estimate_settings.assumed_settings(suite.llama(name, attention))
        for name in suite.MODELS
        for attention in suite.BACKBONES
    )
    whole = dataclasses.replace(MODEL, remat="none")
    assert estimate_settings.assumed_settings(whole) == {"remat": "block"}

    class Kept:
        def accepted(self):
            return [(workload(), 2**30), (workload(model=whole), 2**31)]

    assert [row["compiled"] for row in suite._accuracy(Kept(), "tpu")] == [1]
    assert not list(suite._accuracy(Kept(), "gpu"))


def test_an_estimate_is_of_the_kernel_that_a_platform_has():
    """That a kernel needs other devices is what the kernel says itself."""
    needs = {
        (name, platform): "the devices are" in why_not(name, platform, "bfloat16", 64)
        for name in NAMES[1:]
        for platform in memory.COEFFICIENTS
    }
    assert {
        name: platform
        for (name, platform), bad in needs.items()
        if not bad and any(needs[name, other] for other in memory.COEFFICIENTS)
    } == estimate_settings.FUSED
    for kernel in NAMES:
        assumed = {} if kernel in ("auto", "cudnn", "splash") else {"kernel": "auto"}
        ring = dataclasses.replace(MODEL, kernel=kernel)
        assert estimate_settings.assumed_settings(ring) == assumed
        # Dense attention has no kernel.
        dense = dataclasses.replace(ring, attention="dense", blockwise_feedforward=False)
        assert not estimate_settings.assumed_settings(dense)


def test_flops_of_appendix_d():
    s, h, layers = 32768, MODEL.width, MODEL.layers
    assert flops.model_flops(MODEL, s, causal=False) == 3 * layers * (24 * s * h**2 + 4 * s**2 * h)
    assert flops.model_flops(MODEL, s) == 3 * layers * (24 * s * h**2 + 2 * s**2 * h)
    assert flops.growth(MODEL, 4096, 10**6) == pytest.approx((6 * h + 10**6) / (6 * h + 4096))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("backward", [False, True])
def test_the_ring_hides_from_the_overlap_condition_on(family, backward):
    name = f"{family}:{(FAMILIES[family].layouts or ('16',))[-1]}"
    chip = roofline.chip_of(workload(name))
    least = minimal_block(chip, causal=True, backward=backward)
    for tokens in (int(least) - 1, int(least) + 1):
        step = roofline.ring_step(workload(name, tokens=tokens), backward=backward)
        assert step.hidden == (tokens >= least)


@pytest.mark.parametrize(("remat", "attentions"), [("block", 1 + 2.5), ("full", 2 + 2.5)])
def test_a_step_takes_what_its_flops_take_where_all_is_hidden(remat, attentions):
    """The backward pass computes the scores once more, and products twice as forward."""
    model = dataclasses.replace(MODEL, remat=remat)
    found = roofline.step_time(workload("v5p:4x4x4", tokens=2**17, model=model))
    peak = 64 * roofline.chip_of(workload("v5p:2x2x1")).flops
    products, attention = (
        model.layers * of_layer / peak
        for of_layer in (
            flops.layer_products(model, 2**23),
            flops.layer_attention(model, 2**23, 2**23),
        )
    )
    of_use = flops.model_flops(model, 2**23) / peak
    assert 3 * (products + attention) == pytest.approx(of_use)
    # Of 12 h^2 weights all are used forward, 8 h^2 again, and each has two products backward.
    assert found.compute == pytest.approx((1 + 8 / 12 + 2) * products + attentions * attention)
    assert found.weights == 0
    # Two sums in bfloat16 go home.
    assert found.ring == pytest.approx(model.layers * 2 * 2 * model.width * 2**17 / 100e9)
    assert found.utilisation == pytest.approx(of_use / found.total)


@pytest.mark.parametrize("attention", ["dense", "memory_efficient", "blockwise"])
@pytest.mark.parametrize("remat", ["none", "dots", "block", "full"])
def test_products_are_those_of_the_program(attention, remat):
    """Counted in the gradient of a model's layers, whose other products are small beside them."""
    width, tokens, layers = 512, 64, 2
    kind = {"attention": attention, "kernel": "reference", "remat": remat}
    model = ModelConfig(width=width, layers=layers, heads=4, **kind)
    graph, params = nnx.split(AgenticTransformer(model, 8, 3, tokens, nnx.Rngs(0)))

    def loss(params, features):
        timestep = jnp.zeros((1, tokens), jnp.int32)

        def attend(layer, *qkv):
            return backbones(*qkv, backbone=attention, kernel="reference")

        return nnx.merge(graph, params).encode(features, timestep, attend).sum()

    gradient = jax.make_jaxpr(jax.grad(loss))(params, jnp.ones((1, tokens, 8)))
    of_weights, of_attention = _product_flops(gradient.jaxpr)
    # The embedding of 8 features adds at most 3 * 8 / (12 * 512 * 2) = 0.002.
    products = layers * flops.layer_products(model, tokens)
    assert of_weights / products == pytest.approx(3 + roofline.products_again(model), rel=0.002)
    found = workload(model=model, tokens=tokens, ring=1)
    computed = roofline.step_time(found).compute * roofline.chip_of(found).flops
    assert of_attention == pytest.approx(
        computed - (3 + roofline.products_again(model)) * products, rel=0.01
    )


def _product_flops(jaxpr) -> np.ndarray:
    """Returns the FLOPs of a program's products with a weight, or whose result is its gradient.

    The second number is that of all other products, which are those of attention.
    """
    total = np.zeros(2)
    for equation in jaxpr.eqns:
        arrays = [variable.aval for variable in (*equation.invars, *equation.outvars)]
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            of_attention = 2 not in [array.ndim for array in arrays]
            total[int(of_attention)] += (
                2 * math.prod(arrays[0].shape[axis] for axis in contracted) * arrays[-1].size
            )
        for value in equation.params.values():
            if hasattr(inner := getattr(value, "jaxpr", value), "eqns"):
                total += equation.params.get("length", 1) * _product_flops(inner)
    return total


@pytest.mark.parametrize("order", ["zigzag", "contiguous"])
@pytest.mark.parametrize("backward", [False, True])
def test_the_slowest_device_computes_what_it_sees(order, backward):
    """In every step, counted by the positions of the devices' queries and keys."""
    ring, tokens = 4, 256
    model = dataclasses.replace(MODEL, layout=order)
    at = positions(ring * tokens, ring, order).reshape(ring, tokens)
    seen = [
        max((at[i][:, None] >= at[(i - step) % ring]).mean() for i in range(ring))
        for step in range(ring)
    ]
    where = workload("v5e:2x2", model, tokens)
    found = [
        roofline.ring_step(where, backward=backward, later=step > 0).compute for step in range(ring)
    ]
    whole = 2 * roofline.ring_step(workload("v5e:2x2", tokens=tokens), backward=backward).compute
    assert [seconds / whole for seconds in found] == pytest.approx(seen, rel=2 / tokens)


def test_a_contiguous_ring_waits_in_its_first_step_at_most():
    """Half of a block hides no transfer from these tokens on, and a whole one hides it."""
    model = dataclasses.replace(MODEL, layout="contiguous")
    least = roofline.least_tokens(workload(), backward=True)
    where = workload(model=model, tokens=int(0.9 * least))
    assert roofline.least_tokens(where, backward=True, later=True) == least / 2
    steps = [
        (hop, roofline.ring_step(where, backward=backward, later=hop > 0))
        for backward in (False, True)
        for hop in range(15)
    ]
    assert {hop for hop, step in steps if not step.hidden} == {0}
    found, zigzag = (roofline.step_time(x) for x in (where, workload(tokens=where.tokens)))
    late = sum(max(0, step.transfer - step.compute) for _, step in steps)
    home = 4 * MODEL.width * where.tokens / roofline.chip_of(where).link
    assert found.ring == pytest.approx(24 * (late + home))
    assert found.ring < zigzag.ring and found.total > 1.1 * zigzag.total


def test_a_model_without_a_ring_waits_for_nothing_of_it():
    alone = workload(model=dataclasses.replace(MODEL, attention="blockwise"), ring=1)
    assert roofline.step_time(alone).ring == 0


def test_the_default_of_the_command_is_the_agent_of_350_million_parameters():
    assert (MODEL.width, MODEL.layers, MODEL.heads) == (1024, 24, 16)
    assert ModelConfig() != MODEL
