"""Calls cuDNN's fused attention on NVIDIA GPUs, through the primitives that jax ships.

`jax.nn.dot_product_attention(implementation="cudnn", return_residual=True)` rounds its log-sum-exp
to bfloat16, and its gradient drops the cotangent of the log-sum-exp: a ring that is differentiated
through it is silently wrong. The primitives below it have neither fault, but they are private to
jax. `why_not` finds out whether this jax, this cuDNN and these arrays have what is called here.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import count
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir

from agentic_transformer.ring.kernels.fused import FusedKernel
from agentic_transformer.ring.mesh import GPUS

MIN_VERSION = 91002
"""cuDNN 9.10.2; earlier ones have bugs in fused attention."""

MIN_CAPABILITY = 8.0
"""Compute capability of NVIDIA's Ampere GPUs; earlier ones have no fused attention in cuDNN."""

MAX_HEAD_DIM = 128
DTYPES = ("bfloat16", "float16")

_DETERMINISM = ("xla_gpu_exclude_nondeterministic_ops", "xla_gpu_deterministic_ops")

_FORWARD = {"query", "key", "value", "scale", "mask_type", "qkv_layout", "return_residual"}
_BACKWARD = [
    "query", "key", "value", "bias", "q_seqlen", "kv_seqlen", "q_offsets", "kv_offsets",
    "page_table_k", "page_table_v", "activation", "fwd_output", "grad_output",
]  # fmt: skip
_SETTINGS = {
    "scale",
    "seed",
    "dropout_rate",
    "variadic_args",
    "mask_type",
    "layout",
    "sliding_window_length",
}


@dataclass(frozen=True)
class CuDNNAttention:
    """Computes `FusedAttention` by cuDNN, in its layout BTNH: tokens before heads."""

    token_axis = 1

    def forward(
        self, query: jax.Array, key: jax.Array, value: jax.Array, *, causal: bool
    ) -> tuple[jax.Array, jax.Array]:
        """Returns out and lse, see `FusedAttention.forward`."""
        return tuple(_call(_FORWARD_CALL, query, key, value, causal=causal))

    def backward(
        self,
        query: jax.Array,
        key: jax.Array,
        value: jax.Array,
        out: jax.Array,
        lse: jax.Array,
        cotangent: jax.Array,
        *,
        causal: bool,
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns the gradients, see `FusedAttention.backward`."""
        arrays = query, key, value, out, lse, cotangent
        return tuple(_call(_BACKWARD_CALL, *arrays, causal=causal, seed=_seed()))


def _forward(query, key, value, *, causal: bool) -> tuple[jax.Array, jax.Array]:
    cudnn = _primitives()
    out, lse = cudnn.dot_product_attention(
        query,
        key,
        value,
        scale=query.shape[-1] ** -0.5,
        mask_type=_mask_type(causal),
        qkv_layout="BTNH",
        return_residual=True,
    )
    return out, lse.swapaxes(1, 2)  # from (batch, heads, tokens)


def _backward(
    query, key, value, out, lse, cotangent, *, causal: bool, seed: int
) -> list[jax.Array]:
    cudnn = _primitives()
    unused = [jnp.zeros(0, query.dtype)] * 7  # bias, lengths, offsets, page tables
    settings = {
        "scale": query.shape[-1] ** -0.5,
        "seed": seed,
        "dropout_rate": 0.0,
        "variadic_args": (False, False),
        "mask_type": _mask_type(causal),
        "layout": cudnn.AttentionLayout.BTNH.value,
        "sliding_window_length": None,
    }
    if _takes_score_mod():
        settings["score_mod"] = None
    lse = lse.swapaxes(1, 2)
    bind = cudnn._dot_product_attention_bwd_p_wrapper.bind
    return bind(query, key, value, *unused, lse, out, cotangent, **settings)


def _as_primitive(name: str, function: Callable) -> Primitive:
    """Wraps a function as a primitive, which hides its operations until it is lowered.

    JAX's own primitives of cuDNN can be sharded by the compiler, but allow one mesh in a program. A
    training step with sharded parameters has two meshes (`training/fsdp.py`). Inside of a
    `jax.shard_map` nothing is left to be sharded, so this primitive takes their place.
    """
    primitive = Primitive(name)
    primitive.multiple_results = True
    primitive.def_impl(function)

    @primitive.def_abstract_eval
    def shapes(*arrays: Any, **settings: Any) -> list:
        structs = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in arrays]
        found = jax.eval_shape(partial(function, **settings), *structs)
        return [arrays[0].update(shape=x.shape, dtype=x.dtype) for x in found]

    def batched(arrays: Any, axes: Any, **settings: Any) -> tuple:
        """Folds the axis of a `jax.vmap` into the batch."""
        size = next(x.shape[i] for x, i in zip(arrays, axes, strict=True) if i is not None)
        arrays = (
            jnp.broadcast_to(x, (size, *x.shape)) if i is None else jnp.moveaxis(x, i, 0)
            for x, i in zip(arrays, axes, strict=True)
        )
        results = primitive.bind(*(x.reshape(-1, *x.shape[2:]) for x in arrays), **settings)
        return [x.reshape(size, -1, *x.shape[1:]) for x in results], [0] * len(results)

    batching.primitive_batchers[primitive] = batched
    mlir.register_lowering(primitive, mlir.lower_fun(function, multiple_results=True))
    return primitive


_FORWARD_CALL = _as_primitive("cudnn_attention", _forward)
_BACKWARD_CALL = _as_primitive("cudnn_attention_backward", _backward)


def _call(primitive: Primitive, *arrays: jax.Array, **settings: Any) -> Any:
    """Calls cuDNN; outside of a `jax.shard_map` so that the compiler can shard the call."""
    mesh = jax.sharding.get_abstract_mesh()
    if not mesh.manual_axes:
        return primitive.impl(*arrays, **settings)
    bind = partial(primitive.bind, **settings)
    others = set(mesh.axis_names) - set(mesh.manual_axes)
    if others:
        # The compiler cannot shard the call over only some axes of a mesh: there, compute it whole.
        whole = jax.sharding.PartitionSpec()
        bind = jax.shard_map(
            bind, in_specs=whole, out_specs=whole, axis_names=others, check_vma=False
        )
    return bind(*arrays)


_CALLS = count()


def _seed() -> int:
    """Returns a number that tells calls apart: the seed of a dropout that is not used.

    If XLA is asked for determinism, it notes this in the first of several equal backward calls
    alone (`cudnn_custom_call_compiler.cc`). Then it fails to find the others: "IndexError:
    raw_hash_map::at". So no two calls may be equal.
    """
    return next(_CALLS) if _must_differ() else 42


def _must_differ() -> bool:
    """Returns whether no two backward calls of a program may be equal."""
    return asks_for_determinism(os.environ.get("XLA_FLAGS", ""))


def asks_for_determinism(flags: str) -> bool:
    """Returns whether flags of XLA, as in the variable XLA_FLAGS, ask for deterministic results."""
    asked = dict(flag.lstrip("-").partition("=")[::2] for flag in flags.split())
    return any(asked.get(name, "false").lower() in ("", "1", "true") for name in _DETERMINISM)


@dataclass(frozen=True)
class CuDNNKernel(FusedKernel):
    """Attends by cuDNN.

    Attributes:
        call: tells this kernel from those of other calls, see `for_call`.
    """

    call: int | None = None

    def for_call(self) -> CuDNNKernel:
        """Returns the kernel; another one each time where no two calls may be equal.

        See `_seed`: calls that shared what was traced would have equal seeds.
        """
        return replace(self, call=next(_CALLS)) if _must_differ() else self


CUDNN_KERNEL = CuDNNKernel(CuDNNAttention())


def why_not(platform: str, dtype: Any, head_dim: int) -> str:
    """Returns why cuDNN cannot be called, in a few words; empty if it can.

    Args:
        platform: of the devices.
        dtype: of query, key and value.
        head_dim: of query, key and value.
    """
    name = jnp.dtype(dtype).name
    if platform not in GPUS:
        return f"it needs an NVIDIA GPU, and the devices are {platform}"
    if name not in DTYPES:
        return f"it needs {' or '.join(DTYPES)}, not {name}"
    if head_dim % 8 or head_dim > MAX_HEAD_DIM:
        return f"it needs a head_dim that is a multiple of 8 up to {MAX_HEAD_DIM}, not {head_dim}"
    return _missing()


@cache
def _missing() -> str:
    """Returns what this jax or this cuDNN lacks; empty if nothing."""
    try:
        cudnn = _primitives()
    except ImportError as error:
        return f"jax {jax.__version__} has no cuDNN attention ({error})"
    if problem := signature_problem(cudnn):
        return f"jax {jax.__version__} calls cuDNN in another way: {problem}"
    try:
        version = cudnn.check_cudnn_version()
    except RuntimeError as error:
        return str(error).rstrip(".")  # the caller's sentence goes on
    if version < MIN_VERSION:
        return f"it needs cuDNN 9.10.2, not {version}"
    # Where another platform compiles for GPUs that are not here, nothing is known of them.
    if jax.default_backend() == "gpu":
        return capability_problem(jax.local_devices()[0].compute_capability)
    return ""


def capability_problem(capability: str) -> str:
    """Returns why a GPU has no fused attention; empty if it has.

    Args:
        capability: its compute capability, such as "9.0".
    """
    if float(capability) >= MIN_CAPABILITY:
        return ""
    return f"it needs a GPU of compute capability {MIN_CAPABILITY}, not {capability}"


def signature_problem(cudnn: ModuleType) -> str:
    """Returns how jax's private primitives differ from what is called here; empty if they fit."""
    try:
        forward = inspect.signature(cudnn.dot_product_attention).parameters
        backward = inspect.signature(cudnn._dot_product_attention_bwd_abstract).parameters
        _ = cudnn._dot_product_attention_bwd_p_wrapper.bind, cudnn.AttentionLayout.BTNH.value
        _ = cudnn.MaskType.NO_MASK, cudnn.MaskType.CAUSAL
    except (AttributeError, ValueError, TypeError) as error:
        return str(error)
    if lacking := _FORWARD - set(forward):
        return f"dot_product_attention takes no {', '.join(sorted(lacking))}"
    kinds = inspect.Parameter
    operands = [name for name, p in backward.items() if p.kind is kinds.POSITIONAL_OR_KEYWORD]
    settings = {name for name, p in backward.items() if p.kind is kinds.KEYWORD_ONLY}
    if operands != _BACKWARD:
        return f"the backward primitive takes {', '.join(operands)}"
    if settings - {"score_mod"} != _SETTINGS:
        return f"the backward primitive has the settings {', '.join(sorted(settings))}"
    return ""


def _primitives() -> ModuleType:
    """Imports jax's private module; nowhere else is it named."""
    from jax._src.cudnn import fused_attention_stablehlo  # private: see the module's docstring

    return fused_attention_stablehlo


@cache
def _takes_score_mod() -> bool:
    """Returns whether the primitives have the setting `score_mod`, as from jax 0.12 on."""
    return "score_mod" in inspect.signature(_primitives().dot_product_attention).parameters


def _mask_type(causal: bool) -> Any:
    types = _primitives().MaskType
    return types.CAUSAL if causal else types.NO_MASK
