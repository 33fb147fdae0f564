"""Runs the suite `ring`: the attention backbones against each other and against peers.

On virtual CPU devices. Speed is measured in CPU time; memory and TPU schedules come from compiling
alone, the overlap condition from its formula.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from experiments.benchmarks import tables
from experiments.cli.devices import use_virtual_devices

_SPEED_TOKENS = (8192, 16384)
_FIXED_TOKENS = 32768
_TOKENS_PER_DEVICE = 4096
_MILLION = 2**20


def run(folder: Path) -> None:
    """Runs every part that `folder` lacks, and writes `<part>.csv` and the figures there."""
    parts = {
        "overlap": (_overlap, 1),
        "utilisation": (_utilisation, 8),
        "speed": (_speed, 8),
        "memory": (_memory, 16),
        "schedule": (_schedule, 1),
    }
    for name, (part, devices) in parts.items():
        path = folder / f"{name}.csv"
        if not path.exists():  # else it was finished before a kill
            tables.write(path, _run_in_process(part, devices))
    plot(folder)


def _run_in_process(part: Callable[[], list[dict]], devices: int) -> list[dict]:
    """Returns a part's rows, from a process of its own with so many virtual devices.

    The more virtual devices a process has, the slower is each of them.
    """
    with ProcessPoolExecutor(
        1,
        mp_context=get_context("spawn"),
        initializer=use_virtual_devices,
        initargs=(devices, "--xla_cpu_collective_call_terminate_timeout_seconds=600"),
    ) as pool:
        return pool.submit(part).result()


def _overlap() -> list[dict]:
    """Returns the fewest tokens a device, in thousands, that hide the transfers.

    In the paper's case, and in ours: causal, zigzag.
    """
    # Imported here: it starts jax, in a process of its own with devices of its own.
    from agentic_transformer.ring.overlap import CHIPS, minimal_block, paper_minimal_sequence

    return [
        {
            "chip": chip.name,
            "source": chip.source,
            "paper_block": round(minimal_block(chip) / 1e3, 1),
            "paper_sequence": round(paper_minimal_sequence(chip) / 1e3, 1),
            "causal_forward": round(minimal_block(chip, causal=True) / 1e3, 1),
            "causal_backward": round(minimal_block(chip, causal=True, backward=True) / 1e3, 1),
            "causal_backward_8_grouped": round(
                minimal_block(chip, causal=True, backward=True, group=8) / 1e3, 1
            ),
        }
        for chip in CHIPS
    ]


def _memory() -> list[dict]:
    """Returns the temporary bytes a device of a layer's training step.

    Width 512, feedforward 4 times as wide, float32.
    """
    # Imported here: it starts jax, in a process of its own with devices of its own.
    from experiments.benchmarks.ring_layer import temporary_bytes

    cases = [
        (backbone, tokens, 1)
        for backbone in ("dense", "memory_efficient", "blockwise")
        for tokens in (4096, 8192)
    ]
    cases += [(backbone, _FIXED_TOKENS, 1) for backbone in ("memory_efficient", "blockwise")]
    cases += [("ring", _FIXED_TOKENS, devices) for devices in (1, 2, 4, 8)]
    cases += [("ring", _TOKENS_PER_DEVICE * devices, devices) for devices in (1, 2, 4, 16)]
    cases += [("all_gather", _FIXED_TOKENS, 8), ("ring", _MILLION, 8)]
    return [
        {
            "backbone": backbone,
            "tokens": tokens,
            "devices": devices,
            "megabytes": round(temporary_bytes(backbone, tokens, devices) / 1e6, 1),
        }
        for backbone, tokens, devices in cases
    ]


def _schedule() -> list[dict]:
    """Returns counts of the permutes in the ring compiled for TPU pods, and how many hide."""
    # Imported here: it starts jax, in a process of its own with devices of its own.
    from agentic_transformer.capacity.compiler import available
    from experiments.benchmarks.ring_schedule import TOPOLOGIES, schedule

    if not available():
        print("libtpu is not installed (extra `tpu`): no schedules")
        return []
    return [
        schedule(name, count)._asdict()
        for name, count in (*TOPOLOGIES.items(), ("v5e:4x4", 4), ("v5e:4x4", 8), ("v5p:4x4x4", 16))
    ]


def _utilisation() -> list[dict]:
    """Returns the model FLOPs utilisation of a layer's training step, expected and measured.

    Of the ring at N times the context of blockwise.
    """
    # Imported here: it starts jax, in a process of its own with devices of its own.
    from experiments.benchmarks.ring_utilisation import utilisations

    return [row._asdict() for row in utilisations()]


def _speed() -> list[dict]:
    """Returns CPU seconds of attention, its utilisation, and its speed over the best peer's."""
    # Imported here: it starts jax, in a process of its own with devices of its own.
    from experiments.benchmarks.ring_speed import speeds, times_best_peer, torch_speeds

    rows = [row for tokens in _SPEED_TOKENS for row in (*speeds(tokens), *torch_speeds(tokens))]
    return [
        row._asdict() | {"times_best_peer": times}
        for row, times in zip(rows, times_best_peer(rows), strict=True)
    ]


def plot(folder: Path) -> None:
    """Draws `speed.png` and `memory.png` from the CSVs alone."""
    # Imported here: processes that measure draw nothing.
    import pandas as pd

    from experiments.reports.pyplot import plt  # for the same reason

    speed = pd.read_csv(folder / "speed.csv")
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), sharey=True, layout="constrained")
    for axis, (direction, rows) in zip(axes, speed.groupby("direction"), strict=True):
        rows.pivot_table(index="name", columns="tokens", values="utilisation").plot.barh(
            ax=axis, width=0.8
        )
        axis.set(
            title={"both": "forward and backward"}.get(direction, direction),
            xlabel="useful FLOPs / matrix product rate",
            ylabel="",
        )
    figure.savefig(folder / "speed.png", dpi=120)
    plt.close(figure)
    memory = pd.read_csv(folder / "memory.csv")
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    alone = memory[memory.devices == 1].drop_duplicates(["backbone", "tokens"])
    for backbone, rows in alone.sort_values("tokens").groupby("backbone"):
        axes[0].loglog(rows.tokens, rows.megabytes, "o-", label=backbone)
    axes[0].set(
        xlabel="tokens on one device", ylabel="temporary MB", title="A layer's training step"
    )
    axes[0].legend()
    ring = memory[memory.backbone == "ring"]
    fixed = ring[ring.tokens == _FIXED_TOKENS]
    share = ring[ring.tokens == _TOKENS_PER_DEVICE * ring.devices]
    for rows, label in (
        (fixed, f"{_FIXED_TOKENS:,} tokens in all"),
        (share, f"{_TOKENS_PER_DEVICE:,} tokens a device"),
    ):
        rows = rows.drop_duplicates("devices").sort_values("devices")
        axes[1].loglog(rows.devices, rows.megabytes, "o-", label=label)
    axes[1].set(xlabel="devices on the ring", ylabel="temporary MB a device", title="Ring")
    axes[1].legend()
    figure.savefig(folder / "memory.png", dpi=120)
    plt.close(figure)
