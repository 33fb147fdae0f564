"""Every setting of the project as typed dataclasses, free of heavy imports.

The command line checks a user's overrides against these classes before anything slow (jax, MuJoCo)
is imported, so this module imports the standard library alone. Ranges and choices stand in each
field's metadata (`setting`), the meaning of a value in the comments of the files under `conf/`.
"""

from __future__ import annotations

import sys
from collections.abc import MutableMapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

MAXIMUM_SEED = 2**32 - 1

# Earlier names of settings by their group; they are read for one version.
RENAMED = {
    "agent": {"condition": "return_conditioning"},
    "baseline": {"condition": "return_conditioning"},
    "model": {"rolled": "scan_layers", "compute": "dtype"},
    "train": {"accumulate": "grad_accum_steps", "clip": "grad_clip_norm"},
}


def rename_settings(values: MutableMapping[str, Any], source: str) -> None:
    """Renames settings that were written under an earlier name, in place.

    Args:
        values: groups of settings by name, such as `{"model": {"rolled": True}}`.
        source: where they were read, for the warning line.
    """
    for group, names in RENAMED.items():
        for old, new in names.items():
            if group in values and old in values[group]:
                values[group][new] = values[group].pop(old)
                warn_renamed(f"{group}.{old}", f"{group}.{new}", source)


@cache  # one line for each name and source
def warn_renamed(old: str, new: str, source: str) -> None:
    """Prints that a setting has a new name."""
    print(f"warning: {source}: {old} is now called {new}", file=sys.stderr)


def setting(
    default: Any,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    choices: tuple[str, ...] | None = None,
) -> Any:
    """A dataclass field with a default and what values are allowed (inclusive bounds, or a choice
    of names).

    For a list the bounds and choices hold for each element.
    """
    allowed = {"minimum": minimum, "maximum": maximum, "choices": choices}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=allowed)
    return field(default=default, metadata=allowed)


@dataclass
class DataConfig:
    """Which trajectories: `<root>/<domain>/<algo>/buffer/*.npz`, as ExoRL releases them."""

    root: str = "data"
    algo: str = "pd"
    cache: str | None = None
    episodes: int = setting(4000, minimum=1, maximum=10_000_000)
    seed: int = setting(0, minimum=0, maximum=MAXIMUM_SEED)
    relabel: str = setting("exorl", choices=("exorl", "exact"))
    tasks: int = setting(300, minimum=1, maximum=100_000)
    action_repeat: int = setting(1, minimum=1, maximum=1000)
    horizon: int | None = setting(None, minimum=1, maximum=1_000_000)


@dataclass
class AgentConfig:
    """What a chain of trajectories is and which of its actions are learned."""

    name: str = "at_prefix"
    learner: str = setting("transformer", choices=("transformer", "td3_bc"))
    return_conditioning: str = setting("return", choices=("return", "none"))
    trajectories: int = setting(8, minimum=1, maximum=4096)
    length: str = setting("full", choices=("full", "uniform"))
    top: float = setting(1.0, minimum=1e-6, maximum=1.0)
    selection: str = setting("stratified", choices=("uniform", "stratified", "search"))
    target: str = setting("own", choices=("chain_max", "own"))
    loss: str = setting("good", choices=("all", "last", "good"))
    good: float = setting(0.6, minimum=0.0, maximum=1.0)
    loss_threshold: float = setting(0.5, minimum=0.0, maximum=1.0)
    reward_scale: float = setting(2.0, minimum=1e-6)


@dataclass(
    unsafe_hash=True
)  # so that compiled functions can be kept by it; nothing changes a config once it is made
class ModelConfig:
    """The transformer and its action head."""

    tokens: str = setting("packed", choices=("packed", "separate"))
    width: int = setting(64, minimum=1, maximum=65_536)
    layers: int = setting(2, minimum=1, maximum=1024)
    heads: int = setting(1, minimum=1, maximum=1024)
    feedforward: int = setting(4, minimum=1, maximum=64)
    head: str = setting("mixture", choices=("mixture", "mse"))
    components: int = setting(8, minimum=1, maximum=1024)
    log_std_min: float = setting(-3.0, minimum=-10.0, maximum=0.0)
    attention: str = setting(
        "ring", choices=("ring", "dense", "memory_efficient", "blockwise", "all_gather")
    )
    layout: str = setting("zigzag", choices=("zigzag", "contiguous"))
    dtype: str = setting("float32", choices=("float32", "bfloat16"))
    remat: str = setting("none", choices=("none", "block", "dots"))
    scan_layers: bool = False
    blockwise_feedforward: bool = False


@dataclass
class TrainConfig:
    """Optimisation: AdamW, linear warm-up, cosine decay."""

    steps: int = setting(2000, minimum=1, maximum=1_000_000_000)
    batch: int = setting(32, minimum=1, maximum=1_000_000)
    grad_accum_steps: int = setting(1, minimum=1)
    learning_rate: float = setting(3e-3, minimum=1e-9, maximum=1.0)
    warmup: int = setting(100, minimum=0)
    final_fraction: float = setting(0.1, minimum=0.0, maximum=1.0)
    weight_decay: float = setting(1e-4, minimum=0.0)
    grad_clip_norm: float = setting(1.0, minimum=1e-9)
    log_every: int = setting(50, minimum=1)
    checkpoint_every: int = setting(500, minimum=1)
    keep: int = setting(2, minimum=1)
    keep_best: int = setting(1, minimum=0)
    profile: list[int] = setting([], minimum=1)


@dataclass
class TD3BCConfig:
    """The temporal-difference reference, TD3+BC (arXiv 2106.06860)."""

    width: int = setting(256, minimum=1, maximum=65_536)
    layers: int = setting(2, minimum=1, maximum=64)
    batch: int = setting(256, minimum=1, maximum=1_000_000)
    learning_rate: float = setting(3e-4, minimum=1e-9, maximum=1.0)
    discount: float = setting(0.99, minimum=0.0, maximum=1.0)
    alpha: float = setting(2.5, minimum=0.0)
    tau: float = setting(0.005, minimum=1e-9, maximum=1.0)
    noise: float = setting(0.2, minimum=0.0)
    noise_clip: float = setting(0.5, minimum=0.0)
    delay: int = setting(2, minimum=1)


@dataclass
class EvalConfig:
    """Rollouts with a growing context."""

    trajectories: list[int] = setting([1, 2, 4, 8, 16], minimum=1, maximum=4096)
    conditions: list[str] = setting(
        ["own", "no_context", "foreign", "dataset"],
        choices=("own", "no_context", "foreign", "dataset", "bayes_greedy", "posterior_sampling"),
    )
    tasks: int = setting(64, minimum=2, maximum=100_000)
    seed: int = setting(0, minimum=0, maximum=MAXIMUM_SEED)
    target: float = setting(0.95, minimum=0.0)
    temperature: float = setting(1.0, minimum=0.0)
    noise: float = setting(1.0, minimum=0.0)
    video: bool = True


@dataclass
class MeshConfig:
    """Devices: a mesh of (data, ring); the data axis takes what the ring leaves."""

    ring: int = setting(1, minimum=1, maximum=100_000)
    virtual_devices: int = setting(0, minimum=0, maximum=256)
    fsdp: bool = False
    processes: int = setting(1, minimum=1)
    process: int = setting(0, minimum=0)
    coordinator: str | None = None


@dataclass
class CollectCommand:
    """`python -m experiments.collect`."""

    task: str = "point_mass_goal"
    data: DataConfig = field(default_factory=DataConfig)


@dataclass
class DownloadCommand:
    """`python -m experiments.download`: one of ExoRL's released data sets."""

    domain: str = setting(
        "???", choices=("cartpole", "cheetah", "jaco", "point_mass_maze", "quadruped", "walker")
    )
    algo: str = setting(
        "???",
        choices=("aps", "icm_apt", "diayn", "disagreement", "icm", "proto", "random", "rnd", "smm"),
    )
    root: str = "data"
    cache: str | None = None
    sha256: str | None = None


@dataclass
class VerifyCommand:
    """`python -m experiments.verify`: reads a whole buffer and reports what is wrong with it."""

    path: str = "???"
    domain: str | None = setting(
        None,
        choices=(
            "cartpole",
            "cheetah",
            "hopper",
            "jaco",
            "point_mass",
            "point_mass_maze",
            "quadruped",
            "walker",
        ),
    )


@dataclass
class TrainCommand:
    """`python -m experiments.train`."""

    task: str = "point_mass_goal"
    seed: int = setting(0, minimum=0, maximum=MAXIMUM_SEED)
    run: str | None = None
    resume: bool = False
    data: DataConfig = field(default_factory=DataConfig)
    agent: AgentConfig = field(default_factory=AgentConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    td3_bc: TD3BCConfig = field(default_factory=TD3BCConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)


@dataclass
class PlanCommand:
    """`python -m experiments.plan`: what would fit and how long it would take, on machines that are
    not there.
    """

    topology: str = "v5e:4x4"
    trajectories: int = setting(128, minimum=1, maximum=10_000_000)
    solve: str | None = setting(None, choices=("context",))
    steps: int = setting(1000, minimum=1, maximum=1_000_000)
    observation: int = setting(24, minimum=1, maximum=100_000)
    action: int = setting(6, minimum=1, maximum=10_000)
    ring: int | None = setting(None, minimum=1, maximum=100_000)
    compile: str = setting("schedule", choices=("schedule", "memory", "nothing"))
    out: str = "runs/plan"
    model: ModelConfig = field(
        default_factory=lambda: ModelConfig(
            tokens="separate",
            width=1024,
            layers=24,
            heads=16,
            head="mse",
            dtype="bfloat16",
            remat="block",
            scan_layers=True,
            blockwise_feedforward=True,
        )
    )


@dataclass
class QuickstartCommand(TrainCommand):
    """`python -m experiments.quickstart`: the settings of training, and the baseline that the agent
    is compared with.
    """

    baseline: AgentConfig = field(
        default_factory=lambda: AgentConfig(
            name="dt", trajectories=1, selection="uniform", loss="all"
        )
    )


@dataclass
class DataPlace:
    """Where the data of a trained run lie; all else about them is as in training."""

    root: str | None = None
    cache: str | None = None


@dataclass
class EvaluateCommand:
    """`python -m experiments.evaluate`: a trained run; unset evaluation settings are those of the
    run.
    """

    run: str = "???"
    out: str | None = None
    checkpoint: str = "newest"
    data: DataPlace = field(default_factory=DataPlace)
    eval: EvalConfig = field(default_factory=EvalConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)


@dataclass
class ExportCommand:
    """`python -m experiments.export`: what of a trained run it takes to act."""

    run: str = "???"
    out: str = "???"


@dataclass
class PlotCommand:
    """`python -m experiments.plot`: figures and tables from records alone."""

    runs: list[str] = field(default_factory=list)
    out: str | None = None


@dataclass
class TableCommand:
    """`python -m experiments.table`: the jobs of a sweep, side by side."""

    sweep: str = "???"
