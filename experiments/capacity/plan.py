"""One plan: what the estimate, the compiler and the rates of the chip say of a workload."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from agentic_transformer.capacity import flops, memory, roofline, solve
from agentic_transformer.capacity.compiler import Accepted, Refused
from agentic_transformer.capacity.hardware import GIB, topology
from agentic_transformer.capacity.schedule import Permute
from agentic_transformer.capacity.workload import SHARED, Workload
from agentic_transformer.config import PlanCommand
from experiments.capacity.kept import Compilations


@dataclass(frozen=True)
class Plan:
    """All that is known of a workload.

    Attributes:
        workload: at the context that was asked for, or the longest that fits.
        outcome: of its compilation, of the program that would run if its schedule is asked for;
            None where there was none.
        bracket: of the longest context, where that was asked for and compiled.
    """

    workload: Workload
    outcome: Accepted | Refused | None = None
    bracket: solve.Bracket | None = None

    @property
    def estimate(self) -> memory.Estimate:
        """Of its memory."""
        return memory.estimate(self.workload)

    @property
    def peak(self) -> float:
        """The compiler's, or else the estimate's, in bytes."""
        return (
            self.outcome.memory.peak if isinstance(self.outcome, Accepted) else self.estimate.peak
        )

    @property
    def permutes(self) -> tuple[Permute, ...]:
        """As they would run; none where no schedule is known."""
        return self.outcome.permutes if isinstance(self.outcome, Accepted) else ()

    def row(self) -> dict[str, Any]:
        """A line of a table, sizes in GiB."""
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
            held = self.outcome.memory
            row |= {"compiled_peak": held.peak / GIB, "compiled_sum": held.conservative / GIB}
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
            ours = [permute for permute in self.permutes if permute.of_ring]
            row |= {
                "permutes": len(ours),
                "beside_products": sum(permute.multiplied for permute in ours),
            }
        return row

    @property
    def verdict(self) -> str:
        """Whether it fits, and who says so."""
        if isinstance(self.outcome, Refused):
            return f"refused: needs {self.outcome.required / GIB:.2f} GiB"
        if self.outcome is not None:
            return "the compiler accepts"
        return (
            "estimated to fit"
            if self.estimate.peak <= self.workload.topology.memory
            else "estimated not to fit"
        )


def workload_of(command: PlanCommand) -> Workload:
    """The train step that a command asks about; a context that does not divide over a ring is
    padded.
    """
    where = topology(command.topology)
    ring = command.ring or (where.devices if command.model.attention in SHARED else 1)
    workload = Workload(
        where, command.model, 2, command.observation, command.action, command.steps, ring
    )
    tokens = command.trajectories * command.steps * workload.description.layout().tokens_per_step
    return workload.with_tokens(2 * -(-tokens // (2 * ring)))


def make_plan(command: PlanCommand, compilations: Compilations) -> Plan:
    """Estimates, compiles as far as asked for and possible, and solves.

    Raises:
        ValueError: a compilation is asked for and the compiler is not installed.
    """
    workload = workload_of(command)
    compiles = command.compile != "nothing" and workload.topology.compilable
    if command.solve:
        return _solved(command, workload, compilations, compiles)
    plan = Plan(workload, compilations(workload, fast=True) if compiles else None)
    return _scheduled(command, plan, compilations)


def _solved(
    command: PlanCommand, workload: Workload, compilations: Compilations, compiles: bool
) -> Plan:
    if not compiles:
        tokens = solve.estimated_tokens(workload)
        if tokens == 0:
            return Plan(workload.with_tokens(2))
        return Plan(workload.with_tokens(solve.rounded(tokens * solve.BELOW)))
    bracket = solve.longest_context(workload, lambda workload: compilations(workload, fast=True))
    if bracket.fits is None:
        return Plan(*bracket.refused, bracket)
    return _scheduled(command, Plan(*bracket.fits, bracket), compilations)


def _scheduled(command: PlanCommand, plan: Plan, compilations: Compilations) -> Plan:
    """Compiled as it would run, if its schedule is asked for and there is a ring; what is refused
    then does not fit.
    """
    if (
        command.compile != "schedule"
        or plan.workload.ring == 1
        or not isinstance(plan.outcome, Accepted)
    ):
        return plan
    outcome, bracket = compilations(plan.workload, fast=False), plan.bracket
    if bracket and isinstance(outcome, Refused):
        bracket = bracket._replace(
            fits=None, refused=(plan.workload, outcome), compilations=bracket.compilations + 1
        )
    return replace(plan, outcome=outcome, bracket=bracket)


def growth_since_one(workload: Workload) -> float:
    """How many times more a data set costs in this context than in one of a single trajectory
    (appendix D: no mask).
    """
    return flops.growth(workload.model, workload.context / workload.trajectories, workload.context)
