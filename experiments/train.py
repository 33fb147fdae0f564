"""Trains an agent: `python -m experiments.train experiment=quickstart`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from agentic_transformer.config import TrainCommand
from agentic_transformer.errors import raise_config_error
from agentic_transformer.settings import format_value, settings_of, value_at
from agentic_transformer.training import distributed
from agentic_transformer.validation import check_init
from experiments.cli import app as cli
from experiments.cli.preemption import Preemption
from experiments.cli.provenance import add_provenance


def main(config: TrainCommand, run: Path) -> None:
    """Trains the agent of the settings; a signal lets training save its state before it ends."""
    check_init(config)
    with Preemption() as preemption:
        # A signal that comes before the loop first asks for one ends a process that trains alone at
        # once: building caches may take minutes, and there is nothing to save yet. One of several
        # only records it: the others would wait for a process that ended, until jax aborts them.
        if distributed.process_info(config.mesh)[1] > 1:
            preemption.check_requested()
        # Imported here: jax loads after the check of the settings.
        from agentic_transformer.evaluation.learning_curve import train
        from agentic_transformer.training.checkpoint import silence_failed_saves
        from experiments.reports.after_training import show_training

        # The line on a run's computation names the kernel: the ring need not say it a second time.
        logging.getLogger("agentic_transformer.ring.kernels").setLevel(logging.ERROR)
        silence_failed_saves()
        distributed.initialize(config.mesh)
        check_processes_agree(config)

        def note(**facts: Any) -> None:
            # Only now: a run that fails before, for want of data, say, leaves no folder.
            if "computation" in facts:
                print(f"run folder: {run}", flush=True)
            add_provenance(run, **facts)

        train(
            config,
            run,
            preemption.requested_in_any_process,
            note,
            preemption.check_requested,
        )
        # All ask together whether one was told to stop, perhaps after the last step: if that one
        # alone left, the others would wait for it. Then they wait, as in `Checkpoints.close`; a
        # signal that comes now is only recorded.
        if not preemption.requested_in_any_process():
            with distributed.first_process_first():
                if distributed.is_first():
                    show_training(config, run)


def check_processes_agree(config: TrainCommand) -> None:
    """Checks that all processes of a run were started with the same settings.

    Their own numbers and addresses may differ.

    Raises:
        UserError: a setting differs.
    """
    own = ("mesh.process", "mesh.coordinator")
    values = {
        key: format_value(value_at(config, key))
        for key in settings_of(TrainCommand)
        if key not in own
    }
    if different := distributed.differing_between_processes(values):
        said = ", ".join(f"{key}={values[key]}" for key in different)
        raise_config_error(
            f"{said} in process {distributed.process_info(config.mesh)[0]}, "
            "not so in every process of the run",
            "the same settings in all of them",
        )


if __name__ == "__main__":
    cli.run(main, TrainCommand, then="evaluate")
