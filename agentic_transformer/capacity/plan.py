"""Makes plans: what the estimate, the compiler and the rates of the chip say of a workload."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from agentic_transformer.capacity import flops, longest_context, memory, roofline
from agentic_transformer.capacity.compile_cache import CompileCache
from agentic_transformer.capacity.estimate_settings import KERNELED
from agentic_transformer.capacity.hardware import GIB, topology
from agentic_transformer.capacity.hlo_permutes import Permute, count_overlap
from agentic_transformer.capacity.outcome import Accepted, Refused
from agentic_transformer.capacity.workload import Workload
from agentic_transformer.config import PlanCommand
from agentic_transformer.ring.kernels import select


@dataclass(frozen=True)
class Plan:
    """Holds everything that is known of a workload.

    Attributes:
        workload: the workload at the given context, or at the longest that fits.
        outcome: the outcome of its compilation, or None if it was not compiled. If the schedule
            was asked for, it is the compilation of the program that would run.
        bracket: the bracket of the longest context, if it was asked for and compiled.
    """

    workload: Workload
    outcome: Accepted | Refused | None = None
    bracket: longest_context.Bracket | None = None

    @property
    def estimate(self) -> memory.Estimate:
        """Returns the estimate of the workload's memory."""
        return memory.estimate(self.workload)

    @property
    def peak(self) -> float:
        """Returns the peak in bytes by the compiler, or else by the estimate."""
        return (
            self.outcome.memory.peak if isinstance(self.outcome, Accepted) else self.estimate.peak
        )

    @property
    def permutes(self) -> tuple[Permute, ...]:
        """Returns the permutes as they would run; none if no schedule is known."""
        return self.outcome.permutes if isinstance(self.outcome, Accepted) else ()

    def row(self) -> dict[str, Any]:
        """Returns a row of a table, with sizes in GiB."""
        workload, estimate = self.workload, self.estimate
        row = {
            "topology": workload.topology.name,
            "devices": workload.topology.devices,
            "parameters": workload.parameters,
            "layers": workload.model.layers,
            "width": workload.model.width,
            "attention": workload.model.attention,
            "ring": workload.ring,
            "tokens_a_device": workload.tokens,
            "context": workload.context,
            "trajectories": workload.trajectories,
            "limit": workload.topology.memory / GIB,
        }
        row |= {f"estimated_{kind}": size / GIB for kind, size in estimate._asdict().items()}
        row |= {"estimated_peak": estimate.peak / GIB, "verdict": self.verdict}
        if isinstance(self.outcome, Accepted):
            compiled = self.outcome.memory
            row |= {
                "compiled_peak": compiled.peak / GIB,
                "compiled_sum": compiled.conservative / GIB,
            }
        if self.bracket and self.bracket.refused:
            row |= {"refused_context": self.bracket.refused[0].context}
        time = roofline.step_time(workload)
        row |= {"seconds_a_step": time.total, "utilisation": time.utilisation}
        for name, backward in (("forward", False), ("backward", True)):
            row[f"hidden_{name}"] = (
                roofline.ring_step(workload, backward=backward).hidden
                if workload.ring > 1
                else None
            )
        if self.permutes:
            found = count_overlap(self.outcome.of_ring())
            row |= {
                "permutes": found.permutes,
                "beside_products": found.beside_products,
                "beside_attention": found.beside_attention,
                "conditionals": self.outcome.conditionals,
            }
        if self.kernel:
            row |= {"kernel": self.kernel.split(":")[0].split(" for ")[0]}
        return row

    @property
    def kernel(self) -> str:
        """Returns the attention kernel of the compiled step, and why; empty if there is none.

        "dense" and "memory_efficient" attention have none, and neither has what was not compiled.
        """
        workload, model = self.workload, self.workload.model
        if self.outcome is None or model.attention not in KERNELED:
            return ""
        platform, head_dim = workload.topology.platform, model.width // model.heads
        # The masks of a row that is one chain are causal or full.
        return select(model.kernel, platform, model.dtype, head_dim, static=True).reason

    @property
    def verdict(self) -> str:
        """Tells whether the workload fits, and who says so."""
        if isinstance(self.outcome, Refused):
            return f"refused: needs {self.outcome.required / GIB:.2f} GiB"
        if self.outcome is not None:
            return "the compiler accepts"
        return "estimated to fit" if memory.fits(self.workload) else "estimated not to fit"


def workload_of(command: PlanCommand) -> Workload:
    """Returns the workload of a command; a context that does not divide over a ring is padded."""
    machine = topology(command.topology)
    # With another backbone each device takes sequences of its own.
    ring = command.ring or (machine.devices if command.model.attention == "ring" else 1)
    workload = Workload(
        machine, command.model, 2, command.observation, command.action, command.steps, ring
    )
    tokens = command.trajectories * command.steps * workload.spec.layout().tokens_per_step
    # The zigzag layout cuts each device's part into two equal blocks.
    return workload.with_tokens(2 * -(-tokens // (2 * ring)))


def make_plan(command: PlanCommand, compile_step: CompileCache) -> Plan:
    """Estimates a workload, compiles it and finds its longest context, as far as asked for.

    Args:
        command: what to plan.
        compile_step: compiles workloads.

    Raises:
        ValueError: a compilation is asked for and the compiler is not installed.
    """
    workload = workload_of(command)
    compiles = command.compile != "nothing"
    if command.solve:
        return _at_longest_context(command, workload, compile_step, compiles)
    plan = Plan(workload, compile_step(workload, fast=True) if compiles else None)
    return _with_schedule(command, plan, compile_step)


def _at_longest_context(
    command: PlanCommand, workload: Workload, compile_step: CompileCache, compiles: bool
) -> Plan:
    """Plans the longest context that fits; if nothing fits, the shortest that was refused."""
    if not compiles:
        tokens = longest_context.BELOW * longest_context.estimated_tokens(workload)
        # Two tokens are the fewest that a device can have in zigzag order.
        return Plan(workload.with_tokens(max(2, longest_context.round_to_chunks(tokens))))
    bracket = longest_context.longest_context(
        workload, lambda workload: compile_step(workload, fast=True)
    )
    if bracket.fits is None:
        return Plan(*bracket.refused, bracket)
    return _with_schedule(command, Plan(*bracket.fits, bracket), compile_step)


def _with_schedule(command: PlanCommand, plan: Plan, compile_step: CompileCache) -> Plan:
    """Compiles a plan as it would run, if its schedule is asked for and there is a ring.

    A program that is refused now does not fit, although its fast compilation was accepted.
    """
    if (
        command.compile != "schedule"
        or plan.workload.ring == 1
        or not isinstance(plan.outcome, Accepted)
    ):
        return plan
    outcome, bracket = compile_step(plan.workload, fast=False), plan.bracket
    if bracket and isinstance(outcome, Refused):
        bracket = bracket._replace(
            fits=None, refused=(plan.workload, outcome), compilations=bracket.compilations + 1
        )
    return replace(plan, outcome=outcome, bracket=bracket)


def growth_from_one_trajectory(workload: Workload) -> float:
    """Returns how many times the FLOPs of a data set grow from contexts of one trajectory to this.

    All attention scores count, as in the paper (arXiv 2310.01889, appendix D).
    """
    return flops.growth(workload.model, workload.context / workload.trajectories, workload.context)
