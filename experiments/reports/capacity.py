"""Reports plans: Markdown for people, CSV for programs, and a figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from agentic_transformer.capacity import estimate_settings, flops, roofline
from agentic_transformer.capacity.hardware import GIB
from agentic_transformer.capacity.hlo_permutes import DIRECTIONS, count_overlap
from agentic_transformer.capacity.outcome import Accepted, Refused
from agentic_transformer.capacity.plan import Plan, growth_from_one_trajectory
from agentic_transformer.capacity.workload import Workload
from agentic_transformer.settings import format_values
from experiments.reports.pyplot import plt

KINDS = {
    "parameters": "parameters (float32)",
    "optimizer": "optimiser (AdamW's two means)",
    "gradients": "gradients",
    "checkpoints": "checkpointed inputs of layers",
    "ring": "ring: keys and values sent and received, their gradients",
    "working": "working set of one layer",
}


def write(plans: Sequence[Plan], folder: Path) -> None:
    """Prints plans, and writes `plan.md`, `plan.csv` and `plan.png` into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    text = "\n\n".join([*map(section, plans), assumptions()]) + "\n"
    (folder / "plan.md").write_text(text)
    pd.DataFrame([plan.row() for plan in plans]).to_csv(
        folder / "plan.csv", index=False, float_format="%.4g"
    )
    draw(plans, folder / "plan.png")
    print(
        f"\n{text}\n"
        + "\n".join(str(folder / f"plan.{ending}") for ending in ("md", "csv", "png")),
        flush=True,
    )


def section(plan: Plan) -> str:
    """Returns the Markdown section of one plan."""
    workload = plan.workload
    paragraphs = [
        f"## {title(plan)}",
        f"{workload.context:,} tokens of context ({workload.trajectories:,.1f} trajectories of "
        f"{workload.steps:,} steps), {workload.tokens:,} on each of {workload.ring} devices; "
        f"{workload.sequences} sequence(s) at a time; attention: {_attention(workload)}.",
        _memory(plan),
    ]
    if plan.bracket:
        paragraphs.append(_bracket(plan))
    paragraphs += [_work(plan), *([_ring(plan)] if workload.ring > 1 else [])]
    return "\n\n".join(paragraphs)


def title(plan: Plan) -> str:
    """Returns the title of a plan: its model and machine."""
    model = plan.workload.model
    size = plan.workload.parameters
    size = f"{size / 1e9:.1f}B" if size >= 1e9 else f"{size / 1e6:.0f}M"
    shape = f"{model.layers} layers of {model.width}"
    return f"{size} parameters ({shape}) on {plan.workload.topology.name}"


def _attention(workload: Workload) -> str:
    """Returns the name of the attention; of a ring with the order of its sequence."""
    model = workload.model
    return f"{model.attention} in {model.layout} order" if workload.ring > 1 else model.attention


def _memory(plan: Plan) -> str:
    """Returns the table of memory, and a sentence that says whether the plan fits."""
    estimate, limit = plan.estimate, plan.workload.topology.memory
    lines = ["| GiB on each device | |", "|---|---|"]
    lines += [f"| {words} | {getattr(estimate, kind) / GIB:.2f} |" for kind, words in KINDS.items()]
    lines.append(f"| estimated in all | {estimate.peak / GIB:.2f} |")
    if isinstance(plan.outcome, Accepted):
        peak, bound = (plan.outcome.memory.peak / GIB, plan.outcome.memory.conservative / GIB)
        lines.append(f"| the compiler's peak | {peak:.2f} |")
        lines.append(f"| the sum of all that it reserves (conservative) | {bound:.2f} |")
    lines.append(f"| available | {limit / GIB:.2f} |")
    if isinstance(plan.outcome, Refused):
        verdict = f"The compiler refuses it: {plan.outcome.required / GIB:.2f} GiB would be needed."
    elif plan.outcome is not None:
        verdict = (
            f"The compiler accepts it, {(limit - plan.peak) / GIB:.2f} GiB are left. "
            "(It was only compiled, not run.)"
        )
    else:
        verdict = f"An estimate alone. {plan.verdict.capitalize()}."
    if plan.outcome is not None and plan.workload.topology.platform == "gpu":
        verdict += (
            " (A GPU's compiler refuses nothing, so its peak is compared with the memory. The peak "
            "leaves out what cuDNN and NCCL take for themselves.)"
        )
    if plan.kernel:
        verdict += f" Compiled attention: {plan.kernel}"
    if assumed := estimate_settings.assumed_settings(plan.workload.model):
        verdict += f" The estimate assumes {format_values(assumed, 'model.')} instead."
    return "\n".join(lines) + f"\n\n{verdict}"


def _bracket(plan: Plan) -> str:
    """Returns a sentence about the longest context."""
    bracket = plan.bracket
    ends = {"fit": bracket.fits, "do not fit": bracket.refused}
    words = ", ".join(f"{end[0].context:,} tokens {said}" for said, end in ends.items() if end)
    if not bracket.refused:
        words += ", none longer was tried"
    estimated = f"{bracket.estimated * plan.workload.ring:,}"
    return (
        f"Longest context, bracketed by {bracket.compilations} compilations: {words} "
        f"(estimated: {estimated})."
    )


def _work(plan: Plan) -> str:
    """Returns sentences about FLOPs and the least time of a step."""
    workload = plan.workload
    time = roofline.step_time(workload)
    cost = flops.model_flops(workload.model, workload.context)
    growth = growth_from_one_trajectory(workload)
    return (
        f"Training on a sequence takes {cost:.2e} FLOPs, if only causal scores are counted. If all "
        f"scores are counted, as in the paper (arXiv 2310.01889, appendix D), a data set costs "
        f"{growth:.1f} times as much as in contexts of one trajectory. A step takes at least "
        f"{time.total:.3g} s: {time.compute:.3g} s of computing, {time.ring:.3g} s of waiting for "
        f"the ring and {time.weights:.3g} s of waiting for weights. The model uses "
        f"{100 * time.utilisation:.0f}% of the chips' peak rate."
    )


def _ring(plan: Plan) -> str:
    """Returns the table of a ring step's times, and a sentence about the schedule.

    Steps after the first have rows of their own where they compute more.
    """
    workload = plan.workload
    lines = ["| a step of the ring | computes, ms | transfers, ms | |", "|---|---|---|---|"]
    for name, backward in (("forward", False), ("backward", True)):
        first = roofline.ring_step(workload, backward=backward)
        for later in (False, True):
            step = roofline.ring_step(workload, backward=backward, later=later)
            if later and step == first:
                continue
            least = roofline.least_tokens(workload, backward=backward, later=later)
            side = "hidden" if step.hidden else "not hidden"
            lines.append(
                f"| {name}{', after the first' if later else ''} "
                f"| {1e3 * step.compute:.2f} | {1e3 * step.transfer:.2f} "
                f"| {side}: {workload.tokens:,} tokens a device, {least:,.0f} are needed |"
            )
    table = "\n".join(lines)
    if plan.permutes:
        table += "\n\nScheduled: " + "; ".join(schedule(plan.outcome)) + "."
    return table


def schedule(outcome: Accepted) -> list[str]:
    """Tells how many of the ring's permutes have computation beside them, by direction.

    Then it tells what else decides whether a ring is fast: fused attention, and branches.
    """
    phrases = []
    for direction in DIRECTIONS:
        found = count_overlap(outcome.of_ring(direction))
        phrase = (
            f"{direction}, {found.beside_computation} of {found.permutes} permutes beside "
            f"computation, {found.beside_products} beside matrix products"
        )
        if outcome.fused_calls:
            phrase += f" ({found.beside_attention} beside fused attention)"
        phrases.append(phrase)
    phrases.append(
        f"{outcome.fused_calls} calls of fused attention and {outcome.conditionals} branches in "
        "the program's text"
    )
    return phrases


def assumptions() -> str:
    """Returns the paragraph about what the times assume."""
    return "\n".join(
        [
            "Times are lower bounds, not measurements. They assume:",
            "",
            *(f"- {assumption}" for assumption in roofline.ASSUMPTIONS),
        ]
    )


def draw(plans: Sequence[Plan], path: Path) -> None:
    """Draws bars of memory by kind, the compiler's peak and the limit.

    Args:
        plans: one bar each.
        path: path of the PNG.
    """
    figure, axis = plt.subplots(figsize=(10, 2 + 0.5 * len(plans)), layout="constrained")
    names = [f"{title(plan)}\n{plan.workload.context:,} tokens" for plan in plans]
    left = [0.0] * len(plans)
    for kind, words in KINDS.items():
        sizes = [getattr(plan.estimate, kind) / GIB for plan in plans]
        axis.barh(range(len(plans)), sizes, left=left, label=words, height=0.6)
        left = [start + size for start, size in zip(left, sizes, strict=True)]
    for number, plan in enumerate(plans):
        axis.plot([plan.workload.topology.memory / GIB] * 2, [number - 0.4, number + 0.4], "k-")
        if isinstance(plan.outcome, Accepted):
            axis.plot(plan.peak / GIB, number, "kx")
    axis.set_yticks(range(len(plans)), names)
    axis.set(xlabel="GiB on each device; line: available; cross: the compiler's peak")
    axis.invert_yaxis()
    figure.legend(loc="outside lower center", fontsize="small", ncols=3)
    figure.savefig(path, dpi=120)
    plt.close(figure)
