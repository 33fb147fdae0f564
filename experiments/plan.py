"""Plans for machines that are not there: what fits, and how long a step takes at least.

python -m experiments.plan topology=v5e:4x4 model=at_350m trajectories=128
"""

from __future__ import annotations

import os
from pathlib import Path

from agentic_transformer.config import PlanCommand
from agentic_transformer.errors import raise_config_error
from experiments.cli import app as cli


def main(commands: list[PlanCommand]) -> None:
    """Makes a plan for each combination of settings, then reports on all of them together.

    Raises:
        UserError: the plans name several folders.
    """
    (out, *others) = dict.fromkeys(command.out for command in commands)
    if others:
        problem = f"out={out} for some plans and out={others[0]} for others"
        raise_config_error(problem, "one folder for the report on all plans of a command")
    # Nothing is computed: accelerators stay free, and their compilers need none.
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    # Imported here: a command line is checked before jax is loaded.
    from agentic_transformer.capacity.compile_cache import CompileCache
    from agentic_transformer.capacity.plan import make_plan
    from experiments.reports import capacity

    plans = [make_plan(command, CompileCache(Path(out) / "compiled")) for command in commands]
    capacity.write(plans, Path(out))


if __name__ == "__main__":
    cli.run(main, PlanCommand, takes_all=True)
