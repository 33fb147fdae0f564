"""Plans in words: Markdown for people, CSV for programs, a figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from agentic_transformer.capacity import flops, modelled, roofline
from agentic_transformer.capacity.compiler import Accepted, Refused
from agentic_transformer.capacity.hardware import GIB
from agentic_transformer.capacity.schedule import Permute
from agentic_transformer.settings import format_values as written
from experiments.capacity.plan import Plan, growth_since_one

KINDS = {
    "parameters": "parameters (float32)",
    "optimizer": "optimiser (AdamW's two means)",
    "gradients": "gradients",
    "checkpoints": "checkpointed inputs of layers",
    "ring": "ring: what travels, arrives, and its gradients",
    "working": "working set of one layer",
}


def write(plans: Sequence[Plan], folder: Path) -> None:
    """Prints plans, and writes `plan.md`, `plan.csv` and `plan.png` into a folder."""
    import pandas as pd

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
    """One plan."""
    workload = plan.workload
    model = workload.model
    paragraphs = [
        f"## {title(plan)}",
        f"{workload.context:,} tokens of context ({workload.trajectories:,.1f} trajectories of {workload.steps:,} steps), "
        f"{workload.tokens:,} on each of {workload.ring} devices; {workload.sequences} sequence(s) at a time; "
        f"attention: {model.attention}.",
        _memory(plan),
    ]
    if plan.bracket:
        paragraphs.append(_bracket(plan))
    paragraphs += [_work(plan), *([_ring(plan)] if workload.ring > 1 else [])]
    return "\n\n".join(paragraphs)


def title(plan: Plan) -> str:
    """Model and machine."""
    model = plan.workload.model
    size = plan.workload.parameters
    size = f"{size / 1e9:.1f}B" if size >= 1e9 else f"{size / 1e6:.0f}M"
    return f"{size} parameters ({model.layers} layers of {model.width}) on {plan.workload.topology.name}"


def _memory(plan: Plan) -> str:
    estimate, limit = plan.estimate, plan.workload.topology.memory
    lines = ["| GiB on each device | |", "|---|---|"]
    lines += [f"| {words} | {getattr(estimate, kind) / GIB:.2f} |" for kind, words in KINDS.items()]
    lines.append(f"| estimated in all | {estimate.peak / GIB:.2f} |")
    if isinstance(plan.outcome, Accepted):
        held = plan.outcome.memory
        lines.append(f"| the compiler's peak | {held.peak / GIB:.2f} |")
        lines.append(
            f"| the sum of all that it sets aside (conservative) | {held.conservative / GIB:.2f} |"
        )
    lines.append(f"| there is | {limit / GIB:.2f} |")
    if isinstance(plan.outcome, Refused):
        said = f"The compiler refuses it: {plan.outcome.required / GIB:.2f} GiB would be needed."
    elif plan.outcome is not None:
        said = f"The compiler accepts it, {(limit - plan.peak) / GIB:.2f} GiB are left. (Accepted is not run: nothing here ran.)"
    else:
        why = (
            "" if plan.workload.topology.compilable else ": GPUs cannot be compiled for without one"
        )
        said = f"An estimate alone{why}. {plan.verdict.capitalize()}."
    if taken := modelled.instead(plan.workload.model):
        said += f" The estimate is not of this step: it is as if {written(taken, 'model.')}."
    return "\n".join(lines) + f"\n\n{said}"


def _bracket(plan: Plan) -> str:
    bracket = plan.bracket
    ends = {"fit": bracket.fits, "do not fit": bracket.refused}
    words = ", ".join(f"{end[0].context:,} tokens {said}" for said, end in ends.items() if end)
    estimated = f"{bracket.estimated * plan.workload.ring:,}"
    return f"Longest context, bracketed by {bracket.compilations} compilations: {words} (estimated: {estimated})."


def _work(plan: Plan) -> str:
    workload = plan.workload
    time = roofline.step_time(workload)
    cost = flops.model_flops(workload.model, workload.context)
    growth = growth_since_one(workload)
    return (
        f"{cost:.2e} FLOPs train on a sequence, causal scores alone counted. With all scores counted, as the paper does (arXiv "
        f"2310.01889, appendix D), a data set costs {growth:.1f} times what it does in contexts of one trajectory. At best "
        f"{time.total:.3g} s a step: {time.compute:.3g} computing, {time.ring:.3g} waiting for the ring, {time.weights:.3g} for "
        f"weights; {100 * time.utilisation:.0f}% of the chips' peak is of use."
    )


def _ring(plan: Plan) -> str:
    workload = plan.workload
    lines = ["| a step of the ring | computes, ms | transfers, ms | |", "|---|---|---|---|"]
    for name, backward in (("forward", False), ("backward", True)):
        step = roofline.ring_step(workload, backward=backward)
        least = roofline.least_tokens(workload, backward=backward)
        side = "hidden" if step.hidden else "not hidden"
        lines.append(
            f"| {name} | {1e3 * step.compute:.2f} | {1e3 * step.transfer:.2f} | {side}: {workload.tokens:,} tokens a device, "
            f"{least:,.0f} are needed |"
        )
    said = "\n".join(lines)
    if plan.permutes:
        said += "\n\nScheduled: " + "; ".join(scheduled(plan.permutes)) + "."
    return said


def scheduled(permutes: Sequence[Permute]) -> list[str]:
    """How many of the ring's permutes have matrix products beside them, by direction."""
    said = []
    for direction in ("forward", "forward again", "backward"):
        ours = [
            permute for permute in permutes if permute.of_ring and permute.direction == direction
        ]
        products, some = (
            sum(permute.multiplied for permute in ours),
            sum(permute.computed for permute in ours),
        )
        said.append(
            f"{direction}, {some} of {len(ours)} permutes beside computation, {products} beside matrix products"
        )
    return said


def assumptions() -> str:
    """What the times rest on."""
    return "\n".join(
        [
            "Times are a bound, not a measurement. They assume:",
            "",
            *(f"- {said}" for said in roofline.ASSUMPTIONS),
        ]
    )


def draw(plans: Sequence[Plan], path: Path) -> None:
    """Bars of memory by kind, the compiler's peak and the limit."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

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
    axis.set(xlabel="GiB on each device; line: what there is; cross: the compiler's peak")
    axis.invert_yaxis()
    figure.legend(loc="outside lower center", fontsize="small", ncols=3)
    figure.savefig(path, dpi=120)
    plt.close(figure)
