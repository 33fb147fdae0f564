"""Runs one job as Hydra's launchers call it: a run, or one of a sweep."""

from __future__ import annotations

import copy
import sys
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from agentic_transformer import run_files
from agentic_transformer.config import TrainCommand
from agentic_transformer.errors import raise_config_error
from agentic_transformer.settings import settings_of, shell_join, shell_words
from agentic_transformer.training.distributed import process_info
from experiments.cli import (
    allocator,
    compilation_cache,
    devices,
    folders,
    output,
    preemption,
    provenance,
    resuming,
    run_folder,
    run_status,
)
from experiments.cli.run_folder import Opened
from experiments.cli.user_errors import needs_traceback


@dataclass
class Job:
    """Holds a command that is ready to be called with a composed config."""

    name: str
    main: Callable[..., Path | None]
    """Returns the folder of its results, if that is not the run's."""
    command: type
    argv: list[str]
    """The whole command line."""
    multirun: bool
    opened: Opened | None = None
    """Folder of the run or sweep; None for a command without one, and beside process 0."""
    error: Exception | None = None
    """Error of a job that is not a sweep's."""

    @property
    def makes_run(self) -> bool:
        """Returns whether each run gets a folder of its own."""
        return self.takes_run and settings_of(self.command)["run"].optional

    @property
    def takes_run(self) -> bool:
        """Returns whether the command has a run's folder, new or given."""
        return "run" in settings_of(self.command)

    def parent(self, command: Any) -> Path:
        """Returns where new folders of the command go."""
        return run_folder.RUNS / (getattr(command, "task", None) or self.name)

    def prepare(self, command: Any) -> None:
        """Opens the folder of a single run and chooses its devices.

        Raises:
            UserError: the folder cannot be opened, or the number of devices cannot be set.
        """
        devices.make_virtual_devices(command)
        if self.takes_run and not self.makes_run:
            for run in folders.runs_of(Path(command.run)):
                run_folder.read_config(run, TrainCommand)
        number, count = process_info(command.mesh) if hasattr(command, "mesh") else (0, 1)
        if count > 1 and (self.name != "train" or not command.run):
            raise_config_error(
                f"{count} processes of experiments.{self.name}",
                "several of experiments.train, with run=<folder> that all of them see",
            )
        if self.makes_run and number == 0:
            self.opened = resuming.open_run(self.parent(command), self.name, command)

    def __call__(self, config: DictConfig) -> None:
        """Runs the command; keeps its error, except in a sweep, where the job's status has it."""
        hydra = HydraConfig.get()
        in_pool = self.multirun and hydra.runtime.choices["hydra/launcher"] == "joblib"
        preemption.handle_signals(in_pool)
        # A sweep that is stopped begins no more jobs.
        if preemption.acknowledge_signal() is not None:
            return
        folder = self.opened.path if self.opened else Path(config.get("run") or "")
        if self.multirun:
            folder /= str(hydra.job.num)
            folder.mkdir(exist_ok=True)
        overrides = OmegaConf.to_container(hydra.overrides.task)  # not resolved
        # A process of a pool does not come here by `app.run`.
        with output.until_readers_end(), preemption.sweep_job() if in_pool else nullcontext():
            try:
                if in_pool:
                    devices.claim_accelerator()
                command = resuming.resumed_settings(OmegaConf.to_object(config), overrides)
                self._run(folder, command, overrides)
            except preemption.Stopped:
                raise
            except SystemExit:  # the status of a sweep's job has its exit code
                if not self.multirun:
                    raise
            except Exception as error:
                self.error = error
                if self.multirun and needs_traceback(error):
                    traceback.print_exception(error)

    def _run(self, folder: Path, command: Any, overrides: list[str]) -> None:
        """Runs the command in its folder, if it has one."""
        allocator.keep_freed()
        devices.make_virtual_devices(command)
        if hasattr(command, "mesh"):  # of commands that compute
            compilation_cache.enable()
        if not self.makes_run and not self.multirun:
            with preemption.as_stopped():
                self._work(folder, command, overrides)
        elif hasattr(command, "mesh") and process_info(command.mesh)[0] > 0:
            # Process 0 alone makes the folder, and removes it if the run fails before its work.
            if not resuming.is_done(folder, command):
                self.main(command, folder)
        else:
            with run_files.lock(folder):
                self._run_in_folder(folder, command, overrides)

    def _run_in_folder(self, folder: Path, command: Any, overrides: list[str]) -> None:
        """Runs the command in a folder that this process has locked, unless it is finished."""
        if resuming.is_done(folder, command):
            print(f"{folder} is finished already")
            return
        with run_status.track_status(folder, self.name) as facts, preemption.as_stopped():
            if not self.makes_run:  # its results lie elsewhere, and what it was asked is told here
                run_folder.write_overrides(folder, overrides)
            facts |= self._work(folder, command, overrides)
            if "results" in facts:
                facts["job_folder"] = str(folder.resolve())
        print(f"run folder: {folder}", flush=True)

    def _work(self, folder: Path, command: Any, overrides: list[str]) -> dict[str, list[str]]:
        """Calls the command's main; returns where its results are, if that is not `folder`."""
        if not self.takes_run:
            self.main(command)
            return {}
        sys.argv = self.argv[2:]
        facts = run_folder.collect_provenance(command, self.argv)
        if self.makes_run:
            resuming.check_same(folder, command)
            resuming.print_growth(folder, command)
            run_folder.write_description(folder, command, overrides, facts)
            self.main(command, folder)
            return {}
        runs = folders.runs_of(Path(command.run))
        if runs == [Path(command.run)]:  # no sweep
            return {"results": [self._work_on(runs[0], command, overrides, facts)]}
        results = []
        for run in runs:
            print(f"run folder: {run}", flush=True)
            out = command.out and str(Path(command.out) / run.name)
            one = replace(copy.deepcopy(command), run=str(run), out=out)
            results.append(self._work_on(run, one, overrides, facts))
        return {"results": results}

    def _work_on(self, run: Path, command: Any, overrides: list[str], facts: dict[str, Any]) -> str:
        """Calls the command's main for a run that is there; returns the folder of its results."""
        if hasattr(command, "eval"):
            _inherit_evaluation(command, overrides)
        results = self.main(command, run) or run
        # Only now: until then the results in the folder are those of the command before.
        described = facts | provenance.devices()
        run_folder.write_description(results / self.name, command, overrides, described)
        return str(results.resolve())

    def undo(self) -> None:
        """Removes what the command added to its folder, unless another process works there now.

        Of two that start at once the second is refused, and may have opened the folder first.
        """
        if self.opened and not run_files.is_locked(self.opened.path):
            self.opened.undo()

    def command_after_stop(self) -> str:
        """Returns the command line that goes on with what was stopped.

        A folder that does not say yet what was to run is removed: the same command starts anew.
        """
        if not self.makes_run:
            return shell_join(self.argv)
        if self.opened and not folders.is_described(self.opened.path):
            self.undo()
            return shell_join(self.argv)
        words = [word for word in self.argv if word.lstrip("+").partition("=")[0] != "resume"]
        named = any(word.lstrip("+").startswith("run=") for word in words)
        run = {"run": str(self.opened.path)} if self.opened and not named else {}
        return f"{shell_join(words)} {shell_words(run | {'resume': True})}"


def _inherit_evaluation(command: Any, overrides: list[str]) -> None:
    """Takes the evaluation settings that no override sets from the run that is evaluated."""
    given = resuming.given_keys(overrides)
    for key, value in vars(run_folder.read_config(Path(command.run), TrainCommand).eval).items():
        if f"eval.{key}" not in given:
            setattr(command.eval, key, value)
