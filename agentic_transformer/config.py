"""Defines every setting of every command: its default, type, range and meaning, in one place.

The command line checks a user's values against these classes before jax or MuJoCo is imported, so
this module imports nothing slow. `python -m experiments.<command> --help` prints the meanings; the
files under `conf/` hold only values that differ from the defaults here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from agentic_transformer.learners import LEARNERS, learner_conditions

MAXIMUM_SEED = 2**32 - 1


def setting(
    default: Any,
    meaning: str,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    choices: tuple[str, ...] | None = None,
    imported: bool = False,
    example: str | None = None,
) -> Any:
    """Returns a dataclass field with its default, its meaning and its allowed values.

    Args:
        default: the value where a user gives none; "???" where a user has to give one.
        meaning: what the setting does, for `--help`.
        minimum: the smallest allowed value; of each element, for a list.
        maximum: the largest allowed value; of each element, for a list.
        choices: the allowed names; of each element, for a list.
        imported: whether what a user's module holds is allowed too, as `<module>:<NAME>`.
        example: a value for `--help`, where the default shows none.
    """
    facts = {"minimum": minimum, "maximum": maximum, "choices": choices, "imported": imported}
    facts |= {"meaning": meaning, "example": example}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=facts)
    return field(default=default, metadata=facts)


@dataclass
class DataConfig:
    """Describes the trajectories: ExoRL's format, <root>/<domain>/<algo>/buffer/*.npz."""

    root: str = setting("data", "Folder of all data: episodes are <root>/<domain>/<algo>/buffer.")
    algo: str = setting(
        "pd",
        "How the episodes were collected. Ours: pd: a noisy controller that goes to places (point "
        "masses, jaco); mppi: a planner; mppi_annealed: a planner under noise that fades; td3: a "
        "learner that is told the parameters of a family's task; random: uniform actions; noise: "
        "Ornstein-Uhlenbeck noise. ExoRL's: aps, icm_apt, diayn, disagreement, icm, proto, random, "
        "rnd, smm. Or a name of your own.",
    )
    cache: str | None = setting(
        None,
        "Folder for cached episodes and rewards; null: beside the episodes.",
        example="/scratch/cache",
    )
    episodes: int = setting(
        4000, "Number of episodes that are collected or read.", minimum=1, maximum=10_000_000
    )
    seed: int = setting(
        0,
        "Seed of the collection, of the training tasks that are drawn, and of the choice of "
        "episodes where the buffer has more.",
        minimum=0,
        maximum=MAXIMUM_SEED,
    )
    relabel: str = setting(
        "exorl",
        "Rewards of the data. exorl: without the cost of control, as published; exact: with this "
        "cost, as in every evaluation; stored: those in the episodes, of a single task. An "
        "environment of gymnasium uses its stored rewards, unless a family is registered for it.",
        choices=("exorl", "exact", "stored"),
    )
    tasks: int = setting(
        300,
        "Number of training tasks, drawn from a family with parameters, that trajectories are "
        "relabelled with. For any other task it is an error on the command line.",
        minimum=1,
        maximum=100_000,
    )
    action_repeat: int = setting(
        1,
        "Environment steps for which an action is held, in data and evaluation; their rewards are "
        "summed.",
        minimum=1,
        maximum=1000,
    )
    length: int | None = setting(
        None,
        "Environment steps of the episodes that are collected; null: the domain's whole episodes.",
        minimum=1,
        maximum=1_000_000,
        example="200",
    )
    horizon: int | None = setting(
        None,
        "Number of first steps of an episode that are used, each of action_repeat environment "
        "steps; null: whole episodes.",
        minimum=1,
        maximum=1_000_000,
        example="50",
    )


@dataclass
class AgentConfig:
    """Describes a chain of trajectories, and which of its actions are imitated.

    The defaults are ours (at_prefix); conf/agent/at.yaml is the paper's. A learner of single
    transitions, such as td3_bc, has no chains: it uses learner, name, reward_scale and told.
    """

    name: str = setting("at_prefix", "Name of the agent in records and figures.")
    learner: str = setting(
        "transformer",
        "; ".join(f"{name}: {kind.meaning}" for name, kind in LEARNERS.items())
        + "; <module>:<NAME>: one of your own, see CONTRIBUTING.md.",
        choices=tuple(LEARNERS),
        imported=True,
    )
    return_conditioning: str = setting(
        "return",
        "return: the agent is asked for a target return; none: every return-to-go is 0 (behaviour "
        "cloning, and hidden tasks whose best return would tell which task it is).",
        choices=("return", "none"),
    )
    trajectories: int = setting(
        8,
        "Trajectories in a row of training data. In training a context holds at most one fewer.",
        minimum=1,
        maximum=4096,
    )
    chain_length: str = setting(
        "full",
        "full: one chain fills the row; uniform: chains of 1 to `trajectories`, laid end to end "
        "(paper: every length is drawn).",
        choices=("full", "uniform"),
    )
    top: float = setting(
        1.0,
        "Chains are drawn from this share of a task's trajectories: those with the best returns.",
        minimum=1e-6,
        maximum=1.0,
    )
    selection: str = setting(
        "stratified",
        "stratified: the share of good trajectories in a chain is uniform on 0 to 1 (ours); "
        "uniform: every trajectory is equally likely (paper); search: the attempts of a search for "
        "the task by posterior sampling, in their order (ours); history: equally likely, in the "
        "order of collection, for data of one learner that improved (Algorithm Distillation). With "
        "search, tasks at which most trajectories earn little are drawn more often; training "
        "prints a line if the effective number of tasks is less than half of them.",
        choices=("uniform", "stratified", "search", "history"),
    )
    target: str = setting(
        "own",
        "Target return of a trajectory. own: its own return (ours, and Decision Transformer); "
        "chain_max: the best return of its chain (paper).",
        choices=("chain_max", "own"),
    )
    loss: str = setting(
        "good",
        "Actions that are imitated. good: those of trajectories that reach loss_threshold (ours); "
        "all; last: those of the chain's last trajectory (the paper may mean all or last).",
        choices=("all", "last", "good"),
    )
    imitate: str = setting(
        "taken",
        "Actions that are predicted. taken: those of the trajectory; demonstrator: those that its "
        "demonstrator would have taken, where noise was added (data that keep them: td3, "
        "mppi_annealed, pd of jaco, and mppi of cheetah_speed, walker_speed and jaco_goal).",
        choices=("taken", "demonstrator"),
    )
    selection_threshold: float = setting(
        0.6,
        "Smallest share of the task's best return at which selection counts a trajectory as good "
        "(if no return is positive: this share of the way from the worst to the best). "
        "selection=stratified balances good and poor ones; selection=search uses only good ones.",
        minimum=0.0,
        maximum=1.0,
    )
    loss_threshold: float = setting(
        0.5,
        "Smallest share of the task's best return at which loss=good imitates a trajectory. "
        "selection_threshold does not change it.",
        minimum=0.0,
        maximum=1.0,
    )
    reward_scale: float = setting(
        2.0, "Rewards are multiplied by this before the model sees them.", minimum=1e-6
    )
    told: bool = setting(
        False,
        "Whether observations hold the hidden parameters of the task, such as its speed. Such an "
        "agent is a reference for those that must find them out; it may have no context.",
    )
    weighting: str = setting(
        "none",
        "How much an imitated action counts. none: all count the same; advantage: an action counts "
        "more if the rest of its trajectory earned more than a second head, the value, expects "
        "from the context (ours: at_value; it needs return_conditioning=none).",
        choices=("none", "advantage"),
    )
    advantage_temperature: float = setting(
        0.2,
        "For weighting=advantage: the advantage at which an action counts e times as much as at "
        "advantage 0. It is a share of the largest absolute return in the data.",
        minimum=1e-3,
    )
    expectile: float = setting(
        0.9,
        "The value learns this expectile of the return of the rest of a trajectory; 0.5 is the "
        "mean, higher is nearer to the best.",
        minimum=0.5,
        maximum=0.999,
    )
    value_weight: float = setting(
        10.0, "Weight of the value's loss beside that of the actions.", minimum=0.0
    )


# Hashable, so that compiled functions can be cached by it; nothing changes a config later.
@dataclass(unsafe_hash=True)
class ModelConfig:
    """Describes the transformer and its action head."""

    tokens: str = setting(
        "packed",
        "Tokens of a step. packed: one, with all that is known before its action (ours, up to 9 "
        "times cheaper); separate: return-to-go, observation, action, reward (the papers).",
        choices=("packed", "separate"),
    )
    width: int = setting(64, "Width of the residual stream.", minimum=1, maximum=65_536)
    layers: int = setting(2, "Number of layers.", minimum=1, maximum=1024)
    heads: int = setting(1, "Attention heads; a divisor of the width.", minimum=1, maximum=1024)
    feedforward: int = setting(
        4, "Hidden width of the feed-forward block, in multiples of `width`.", minimum=1, maximum=64
    )
    head: str = setting(
        "mixture",
        "mixture: a mixture of Gaussians (ours; it explores); mse: one action, squared error "
        "(paper).",
        choices=("mixture", "mse"),
    )
    components: int = setting(8, "Gaussians of head=mixture.", minimum=1, maximum=1024)
    log_std_min: float = setting(
        -3.0,
        "Smallest logarithm of a Gaussian's standard deviation, for head=mixture; raise it where "
        "actions are nearly free of noise.",
        minimum=-10.0,
        maximum=0.0,
    )
    attention: str = setting(
        "ring",
        "Attention backbone. All are exact; they differ in memory and communication.",
        choices=("ring", "dense", "memory_efficient", "blockwise", "all_gather"),
    )
    layout: str = setting(
        "zigzag",
        "Order of the sequence on the ring. zigzag: causal work is even over devices.",
        choices=("zigzag", "contiguous"),
    )
    kernel: str = setting(
        "auto",
        "Kernel of ring and blockwise attention. auto: the fastest for the devices; cudnn: fused "
        "attention of NVIDIA GPUs, for 16-bit types; splash: fused attention of TPUs.",
        choices=("auto", "reference", "xla", "cpu", "cudnn", "splash"),
    )
    precision: str = setting(
        "highest",
        "Precision of float32 matrix products. default: that of the platform, TF32 on GPUs and "
        "bfloat16 on TPUs, with errors of 1e-3.",
        choices=("highest", "default"),
    )
    dtype: str = setting(
        "float32",
        "Type that the blocks compute in; parameters, softmax and loss are always float32.",
        choices=("float32", "bfloat16"),
    )
    remat: str = setting(
        "none",
        "Activations that are stored for the gradient; the others are computed again. none: all "
        "are stored; dots: as block, and results of products with parameters; block: the input of "
        "each block and the output of its attention; full: the input of each block alone (least "
        "memory, but attention is computed twice).",
        choices=("none", "dots", "block", "full"),
    )
    scan_layers: bool = setting(
        False,
        "Whether one compiled layer loops over the stacked parameters of all layers. The program "
        "stays small with many layers.",
    )
    blockwise_feedforward: bool = setting(
        False,
        "Whether the feed-forward block works on chunks of a long sequence, so that its wide "
        "activations never exist at once.",
    )


@dataclass
class TrainConfig:
    """Describes the optimisation: AdamW, linear warm-up, cosine decay."""

    steps: int = setting(2000, "Training steps.", minimum=1, maximum=1_000_000_000)
    batch: int = setting(
        32,
        "Rows of a step, each of agent.trajectories trajectories; the paper has 64.",
        minimum=1,
        maximum=1_000_000,
    )
    grad_accum_steps: int = setting(
        1,
        "Micro-batches whose gradients are added before an update; a divisor of the rows of each "
        "device.",
        minimum=1,
    )
    learning_rate: float = setting(
        3e-3, "Learning rate after the warm-up.", minimum=1e-9, maximum=1.0
    )
    warmup: int = setting(100, "Steps of the warm-up.", minimum=0)
    final_fraction: float = setting(
        0.1, "Share of the learning rate at which the cosine ends.", minimum=0.0, maximum=1.0
    )
    weight_decay: float = setting(1e-4, "Weight decay of AdamW.", minimum=0.0)
    grad_clip_norm: float = setting(1.0, "Largest global norm of the gradient.", minimum=1e-9)
    log_every: int = setting(50, "Steps between two rows of metrics.csv.", minimum=1)
    eval_every: int = setting(
        0,
        "Steps between two small evaluations while training; 0: none. They run the agent's own "
        "attempts, and learning_curve.csv holds returns at n = 1 and at the last n of "
        "eval.trajectories.",
        minimum=0,
    )
    eval_tasks: int = setting(
        16, "Tasks of such an evaluation, drawn as eval.tasks are.", minimum=2, maximum=100_000
    )
    checkpoint_every: int = setting(500, "Steps between two checkpoints.", minimum=1)
    keep: int = setting(2, "Number of newest checkpoints that are kept.", minimum=1)
    keep_best: int = setting(
        1,
        "Number of checkpoints with the smallest loss that are kept too; agents of single "
        "transitions, such as td3_bc, keep none of these.",
        minimum=0,
    )
    profile: list[int] = setting(
        [], "Steps that are traced for TensorBoard or Perfetto.", minimum=1, example="[10,11]"
    )


@dataclass
class ActorCriticConfig:
    """Describes what learners of single transitions share: networks, batches and targets."""

    width: int = setting(256, "Width of the hidden layers.", minimum=1, maximum=65_536)
    layers: int = setting(2, "Number of hidden layers.", minimum=1, maximum=64)
    batch: int = setting(256, "Transitions of a step.", minimum=1, maximum=1_000_000)
    learning_rate: float = setting(
        3e-4, "Adam's learning rate, of every network.", minimum=1e-9, maximum=1.0
    )
    discount: float = setting(0.99, "Discount of the next value.", minimum=0.0, maximum=1.0)
    tau: float = setting(
        0.005,
        "Share by which target networks move toward their networks.",
        minimum=1e-9,
        maximum=1.0,
    )


@dataclass
class TD3BCConfig(ActorCriticConfig):
    """Describes TD3+BC (arXiv 2106.06860) and TD3, the references of agent=td3_bc and agent=td3.

    Of `train` it uses steps, log_every, eval_every, eval_tasks, checkpoint_every, keep and profile.
    """

    alpha: float = setting(
        2.5,
        "Weight of the value against the distance to the data's actions, for TD3+BC.",
        minimum=0.0,
    )
    noise: float = setting(
        0.2, "Standard deviation of the noise that smooths the target action.", minimum=0.0
    )
    noise_clip: float = setting(0.5, "Largest such noise.", minimum=0.0)
    delay: int = setting(
        2, "Critic updates for one update of the actor and the target networks.", minimum=1
    )


@dataclass
class IQLConfig(ActorCriticConfig):
    """Describes IQL (implicit Q-learning, arXiv 2110.06169), the reference of agent=iql.

    Of `train` it uses steps, log_every, eval_every, eval_tasks, checkpoint_every, keep and profile.
    """

    expectile: float = setting(
        0.7,
        "A state's value is this expectile of the values of the data's actions. 0.5: their mean; "
        "towards 1: their maximum.",
        minimum=0.01,
        maximum=0.99,
    )
    temperature: float = setting(
        3.0,
        "An imitated action has the weight exp(temperature * advantage), at most 100; 0: all count "
        "the same. Advantages are in units of scaled rewards (agent.reward_scale).",
        minimum=0.0,
    )


@dataclass
class CQLConfig(ActorCriticConfig):
    """Describes CQL (conservative Q-learning, arXiv 2006.04779), the reference of agent=cql.

    Of `train` it uses steps, log_every, eval_every, eval_tasks, checkpoint_every, keep and profile.
    """

    alpha: float = setting(
        5.0,
        "Weight of the penalty, which lowers the values of actions that the data lack. ExoRL uses "
        "0.01: data that explore need little pessimism.",
        minimum=0.0,
    )
    samples: int = setting(
        3,
        "Actions per state that the penalty draws evenly, and as many that it draws from the "
        "actor (3: ExoRL's; the authors draw 10).",
        minimum=1,
        maximum=10_000,
    )


@dataclass
class CRRConfig(ActorCriticConfig):
    """Describes CRR (critic regularized regression, arXiv 2006.15134), the reference of agent=crr.

    The hidden layers of its networks are normalized; those of the other learners are not.
    Of `train` it uses steps, log_every, eval_every, eval_tasks, checkpoint_every, keep and profile.
    """

    samples: int = setting(
        10,
        "Actions that are drawn around the actor's own. An action of the data is imitated if its "
        "value is above their mean value.",
        minimum=1,
        maximum=10_000,
    )
    noise: float = setting(
        0.2,
        "Standard deviation of the noise of these draws, and of the critics' target action.",
        minimum=0.0,
    )
    noise_clip: float = setting(0.5, "Largest such noise.", minimum=0.0)


# Hashable, so that compiled functions can be cached by it; nothing changes a config later.
@dataclass(unsafe_hash=True)
class TD3Config:
    """Describes TD3 (arXiv 1802.09477), the online learner of data.algo=td3.

    It is told the parameters of its task. After every round of episodes it makes one update for
    each action of the round; an action is held for data.action_repeat environment steps.
    """

    episodes: int = setting(
        32, "Episodes of a round; a divisor of data.episodes.", minimum=1, maximum=10_000
    )
    width: int = setting(128, "Width of the hidden layers.", minimum=1, maximum=65_536)
    layers: int = setting(2, "Number of hidden layers.", minimum=1, maximum=64)
    batch: int = setting(256, "Transitions of an update.", minimum=1, maximum=1_000_000)
    relabelled: float = setting(
        0.5,
        "Share of a batch that is relabelled: it gets other parameters of the task, and their "
        "rewards.",
        minimum=0.0,
        maximum=1.0,
    )
    learning_rate: float = setting(
        1e-3, "Adam's learning rate, of actor and critics.", minimum=1e-9, maximum=1.0
    )
    # Rewards are multiplied by (1 - discount), so a discount of 1 would leave nothing.
    discount: float = setting(0.97, "Discount of the next value.", minimum=0.0, maximum=0.9999)
    tau: float = setting(
        0.005,
        "Share by which target networks move toward their networks.",
        minimum=1e-9,
        maximum=1.0,
    )
    noise: float = setting(
        0.2, "Standard deviation of the noise that smooths the target action.", minimum=0.0
    )
    noise_clip: float = setting(0.4, "Largest such noise.", minimum=0.0)
    delay: int = setting(
        2, "Critic updates for one update of the actor and the target networks.", minimum=1
    )


EVAL_CONDITIONS = (
    *("own", "no_context", "foreign", "dataset"),
    *("zero_rewards", "other_rewards", "shuffled"),
    *("retrieval", "distractors"),
    *("bayes_greedy", "posterior_sampling"),
)
"""Values of `eval.conditions`."""

ANOTHER_TASK = ("foreign", "other_rewards")
"""Conditions whose context comes from another task, or has the rewards of another."""

BASELINES = ("dt", "bc", "bc10", "single", "bc_told", "single_told", *learner_conditions())
"""Conditions of agents that act without a context.

Each is another agent. It is compared with every agent that has a context. Those that end in `_told`
observe the parameters of the task, which are hidden from the others.
"""

RECORD_CONDITIONS = (*EVAL_CONDITIONS, *BASELINES)
"""Values of the column `condition` of records, see `agentic_transformer.evaluation.rollouts`."""


@dataclass
class EvalConfig:
    """Describes rollouts with a growing context."""

    trajectories: list[int] = setting(
        [1, 2, 4, 8, 16],
        "Points of the curve. Every number up to the largest is run and recorded; tables show "
        "powers of two and the largest.",
        minimum=1,
        maximum=4096,
    )
    conditions: list[str] = setting(
        ["own", "no_context", "foreign", "dataset"],
        "What the context of an attempt holds. own: the agent's own earlier attempts; no_context, "
        "foreign and dataset are its controls; zero_rewards, other_rewards and shuffled change its "
        "rewards or order; retrieval hides one good trajectory of the data among poor ones, "
        "distractors leaves it out. bayes_greedy and posterior_sampling are oracles of search, for "
        "hidden tasks.",
        choices=EVAL_CONDITIONS,
    )
    window: int | None = setting(
        None,
        "Trajectories that a context may hold, the one that is acted included, as "
        "agent.trajectories counts them; older ones are forgotten. null: all.",
        minimum=1,
        maximum=4096,
        example="4",
    )
    tasks: int = setting(
        64,
        "Number of hidden tasks that are drawn; for a task that is not hidden, of repetitions.",
        minimum=2,
        maximum=100_000,
    )
    seed: int = setting(
        0, "Seed of the drawn tasks and of the rollouts.", minimum=0, maximum=MAXIMUM_SEED
    )
    held_out: str = setting(
        "between",
        "Which members of a family with parameters are drawn; none of them is a training task. "
        "between: from the range of the training tasks; beyond: from outside of it, such as "
        "higher speeds. Families without parameters have the same few tasks as in training.",
        choices=("between", "beyond"),
    )
    target: float = setting(
        0.95,
        "Target return, as a share of the best in the data. 0.95 asks for 95 if the best is 100, "
        "and for -105 if it is -100.",
        minimum=0.0,
    )
    temperature: float = setting(
        1.0, "Temperature of the choice among the mixture's components.", minimum=0.0
    )
    noise: float = setting(1.0, "Scale of the chosen Gaussian's standard deviation.", minimum=0.0)
    video: bool = setting(True, "Whether a video is made, where the machine can render.")


@dataclass
class MeshConfig:
    """Describes the devices: a mesh of (data, ring). The batch is cut over data."""

    ring: int = setting(1, "Devices that share one sequence.", minimum=1, maximum=100_000)
    virtual_devices: int = setting(
        0,
        "Number of devices that are made of this machine's CPU; 0: the devices there are.",
        minimum=0,
        maximum=256,
    )
    fsdp: bool = setting(
        False,
        "Whether parameters and optimizer state are sharded over all devices; layers gather "
        "theirs as they run.",
    )
    processes: int = setting(
        1,
        "Processes of one run, which share a mesh. On Slurm they find each other; by hand, start "
        "the same command for each.",
        minimum=1,
    )
    process: int = setting(0, "Number of this process, from 0.", minimum=0)
    coordinator: str | None = setting(None, "<host>:<port> of process 0.", example="localhost:1234")


TASK = (
    "Name of a task, one of envs.tasks(); an id, such as 'cheetah_speed(speed=1.5)'; or "
    "gymnasium:<id>, an environment of gymnasium with vectors and a fixed length."
)
DOMAIN = (
    "Domain of the episodes, such as walker or gymnasium:<id>; null: the one that "
    "<domain>/<algo>/buffer names."
)
RUN = "Folder of a run of experiments.train."
NEW_RUN = "Folder of the run; null: a new one, runs/<task>/<date>-<time>-<unique>."
RESUME = "Whether to continue `run`, or the newest unfinished run with the same settings."
INIT = (
    "Run whose newest parameters training starts from, with a fresh optimizer; observations and "
    "returns are scaled as in that run. null: fresh parameters."
)
LOGGER = (
    "Where numbers go besides metrics.csv and the terminal. tensorboard: <run>/tensorboard; wandb: "
    "Weights & Biases too (an extra; WANDB_MODE=offline keeps all in <run>/wandb)."
)


@dataclass
class CollectCommand:
    """Makes episodes of a task's domain, in ExoRL's format."""

    task: str = setting("point_mass_goal", TASK)
    data: DataConfig = field(default_factory=DataConfig)
    td3: TD3Config = field(default_factory=TD3Config)


@dataclass
class DownloadCommand:
    """Downloads one of ExoRL's released data sets; a second call continues the download."""

    domain: str = setting(
        "???",
        "Domain of the data set.",
        choices=("cartpole", "cheetah", "jaco", "point_mass_maze", "quadruped", "walker"),
        example="walker",
    )
    algo: str = setting(
        "???",
        "Exploration that made it.",
        choices=("aps", "icm_apt", "diayn", "disagreement", "icm", "proto", "random", "rnd", "smm"),
        example="rnd",
    )
    root: str = setting("data", "Folder of all data: episodes go to <root>/<domain>/<algo>/buffer.")
    cache: str | None = setting(
        None, "Folder for cached episodes; null: beside the episodes.", example="/scratch/cache"
    )
    sha256: str | None = setting(
        None,
        "SHA-256 of the archive, if you know it (the release states none).",
        example="9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    )


@dataclass
class VerifyCommand:
    """Reads every episode of a buffer and reports what is wrong, file by file."""

    path: str = setting("???", "Folder of episodes.", example="data/walker/rnd/buffer")
    domain: str | None = setting(None, DOMAIN, example="walker")


@dataclass
class ConvertCommand:
    """Converts a buffer of episodes to a local Minari dataset, or such a dataset to a buffer."""

    to: str = setting(
        "???",
        "minari or buffer: which of the two is made.",
        choices=("minari", "buffer"),
        example="minari",
    )
    buffer: str = setting("???", "Folder of episodes.", example="data/walker/rnd/buffer")
    minari: str = setting(
        "???", "Folder of the Minari dataset, which holds `data`.", example="minari/walker-rnd-v0"
    )
    domain: str | None = setting(None, DOMAIN, example="gymnasium:HalfCheetah-v5")


@dataclass
class TrainCommand:
    """Trains one agent on one task."""

    task: str = setting("point_mass_goal", TASK)
    seed: int = setting(
        0, "Seed of parameters, batches and evaluation.", minimum=0, maximum=MAXIMUM_SEED
    )
    run: str | None = setting(None, NEW_RUN, example="runs/mine")
    resume: bool = setting(False, RESUME)
    init: str | None = setting(None, INIT, example="runs/other")
    logger: str = setting("tensorboard", LOGGER, choices=("tensorboard", "wandb"))
    data: DataConfig = field(default_factory=DataConfig)
    agent: AgentConfig = field(default_factory=AgentConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    td3_bc: TD3BCConfig = field(default_factory=TD3BCConfig)
    iql: IQLConfig = field(default_factory=IQLConfig)
    cql: CQLConfig = field(default_factory=CQLConfig)
    crr: CRRConfig = field(default_factory=CRRConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)


@dataclass
class PlanCommand:
    """Computes whether a training step fits machines that you lack, and how long it takes.

    A setting may have several values, a,b: one report compares them. By default `model` is
    model=at_350m.
    """

    topology: str = setting(
        "v5e:4x4",
        "Machine to plan for. A TPU pod (v5e:4x4, v5p:4x4x4), GPUs of one host (a100:8, "
        "h100:4), or of several hosts with 8 each (h100_infiniband:32).",
    )
    trajectories: int = setting(128, "Trajectories in a context.", minimum=1, maximum=10_000_000)
    solve: str | None = setting(
        None,
        "context: find the longest context that fits, in place of a plan for `trajectories`.",
        choices=("context",),
        example="context",
    )
    steps: int = setting(
        1000,
        "Steps of a trajectory; a step is four tokens with model.tokens=separate.",
        minimum=1,
        maximum=1_000_000,
    )
    observation: int = setting(
        24, "Size of an observation; 24 is the walker's.", minimum=1, maximum=100_000
    )
    action: int = setting(6, "Size of an action; 6 is the walker's.", minimum=1, maximum=10_000)
    ring: int | None = setting(
        None,
        "Devices of a ring, which share one sequence; null: all of them, or 1 for attention that "
        "cannot cut a sequence.",
        minimum=1,
        maximum=100_000,
        example="16",
    )
    compile: str = setting(
        "schedule",
        "What the compiler tells. schedule: the memory, and what runs during communication (takes "
        "a minute more); memory: the memory alone; nothing: no compilation, only the estimate.",
        choices=("schedule", "memory", "nothing"),
    )
    out: str = setting("runs/plan", "Folder of the report and of the cache of compilations.")
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
    """Collects data, trains an agent and its baseline, evaluates both and plots them together.

    `baseline` has the settings of `agent`. By default it is agent@baseline=dt.
    """

    baseline: AgentConfig = field(
        default_factory=lambda: AgentConfig(
            name="dt", trajectories=1, selection="uniform", loss="all"
        )
    )


@dataclass
class DataPlace:
    """Describes where the data of a trained run lie; other settings of data are the run's."""

    root: str | None = setting(
        None,
        "Folder of all data, as data.root of training; null: as in training.",
        example="/scratch/data",
    )
    cache: str | None = setting(
        None,
        "Folder for cached episodes and rewards; null: as in training.",
        example="/scratch/cache",
    )


@dataclass
class EvaluateCommand:
    """Runs rollouts of a trained agent; settings of `eval` that are not given are the run's."""

    run: str = setting("???", f"{RUN[:-1]}; of a sweep: all of its runs.", example="runs/mine")
    task: str | None = setting(
        None,
        "Another task of the domain to evaluate on; null: the one of training.",
        example="walker_run",
    )
    out: str | None = setting(
        None,
        "Folder of the results; null: the run's. If it holds records of other settings, these "
        "stay, and the results go to evaluate/<digest> in it. A sweep's runs get <out>/<job>.",
        example="runs/mine-again",
    )
    checkpoint: str = setting(
        "newest",
        "newest, best (by training loss), or the step of a checkpoint. Agents of single "
        "transitions, such as td3_bc, have no best.",
    )
    data: DataPlace = field(default_factory=DataPlace)
    eval: EvalConfig = field(default_factory=EvalConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)


@dataclass
class WatchCommand:
    """Lets a trained agent play a few hidden tasks, and draws its attempts as a moving picture."""

    load: str = setting("maze", "Folder of a run, or the name of a committed agent.")
    attempts: list[int] = setting(
        [1, 2, 4, 8], "Attempts that are shown, of one growing context.", minimum=1, maximum=4096
    )
    tasks: int = setting(4, "Hidden tasks, side by side.", minimum=2, maximum=5)
    seed: int = setting(
        0, "Seed of the tasks, starts and actions.", minimum=0, maximum=MAXIMUM_SEED
    )
    out: str = setting("runs/attempts.gif", "The picture, a .gif or an .mp4.")


@dataclass
class ExportCommand:
    """Exports an inference-only copy of a run (no optimizer state), small enough to share."""

    run: str = setting("???", RUN, example="runs/mine")
    out: str = setting("???", "A new folder for the copy.", example="shared")


FIGURE_FORMATS = ("png", "pdf", "svg")


@dataclass
class PlotCommand:
    """Plots tables and figures from the files of runs alone."""

    runs: list[str] = setting(
        [], "Folders of runs, or of sweeps.", example="[runs/mine,runs/yours]"
    )
    out: str | None = setting(
        None,
        "Folder of the figures; null: the folder itself, or `comparison` beside the first of "
        "several.",
        example="figures",
    )
    paper: bool = setting(
        False, "Whether the table of the Ring Attention paper stands beside the returns."
    )
    anchors: bool = setting(
        False,
        "Whether published returns of a task are drawn as dashed lines, if their unit and their "
        "number of steps are those of the run.",
    )
    conditions: list[str] = setting(
        [],
        "Conditions that tables and figures show; []: all of the records.",
        choices=RECORD_CONDITIONS,
        example="[own,no_context]",
    )
    formats: list[str] = setting(["png"], "Formats of the figures.", choices=FIGURE_FORMATS)


@dataclass
class ReportCommand:
    """Writes one HTML file about runs, which opens without a network."""

    runs: list[str] = setting(
        [], "Folders of evaluated runs, or of sweeps.", example="[runs/mine,runs/yours]"
    )
    out: str | None = setting(
        None,
        "Path of the file; null: report.html in the folder, or in `comparison` beside the first of "
        "several.",
        example="report.html",
    )
    conditions: list[str] = setting(
        [],
        "Conditions that it shows; []: all of the records.",
        choices=RECORD_CONDITIONS,
        example="[own,no_context]",
    )


@dataclass
class TableCommand:
    """Prints one line for each job of a sweep, from files alone, also while jobs run.

    Joins the seeds of evaluated jobs, and draws the return against a number that the sweep varies.
    """

    sweep: str = setting("???", "Folder of a sweep, which -m makes.", example="runs/sweep")
