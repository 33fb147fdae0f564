"""What happens inside Hydra: one run, or each job of a sweep (perhaps in a process of its own), in
its folder.
"""

from __future__ import annotations

import os
import shlex
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentic_transformer.training import distributed
from experiments.cli import accelerators, allocator, compiled, preemption, run_folder
from experiments.cli.overrides import pasteable
from experiments.cli.packages import is_our_word
from experiments.cli.run_folder import Opened
from experiments.cli.settings import check_command, reject, say, settings


@dataclass
class Job:
    """A command, ready to be called with a composed config; Hydra's launchers pickle it."""

    name: str
    main: Callable[..., Path | None]
    """Returns the folder of its results, if not the run's."""
    command: type
    words: list[str]
    """The command line."""
    multirun: bool
    folder: Opened | None = None
    """Of the run or the sweep; None of a command that makes none, or that another process opens."""

    @property
    def makes_run(self) -> bool:
        """Whether each run gets a folder of its own."""
        return settings(self.command)["run"].optional if self.takes_run else False

    @property
    def takes_run(self) -> bool:
        """Whether the command is about a run folder, new or given."""
        return "run" in settings(self.command)

    def prepare(self, command: Any) -> None:
        """Make the folder of a run, and the devices that it asks for.

        Args:
            command: settings of the run.

        Raises:
            SettingError: the folder or the devices cannot be had.
        """
        virtual_devices(command)
        if self.takes_run and not self.makes_run:
            trained(command.run)
        if hasattr(command, "mesh"):
            number, count = distributed.process_info(command.mesh)
            if count > 1 and (self.name != "train" or not command.run):
                allowed = "several of experiments.train, with run=<folder> that all of them see"
                reject(f"{count} processes of experiments.{self.name}", allowed)
            if number > 0:
                return
        if self.makes_run:
            self.folder = run_folder.open_run(parent_of(command, self.name), self.name, command)

    def __call__(self, config: Any) -> None:
        """Run the command with a composed config; exits on failure, but in a sweep leaves that to
        `sweeps.conclude`.
        """
        from hydra.core.hydra_config import HydraConfig

        hydra = HydraConfig.get()
        if self.multirun and hydra.runtime.choices["hydra/launcher"] == "joblib":
            preemption.end_jobs()
            preemption.run_job(lambda: self._start(config, hydra))
        else:
            preemption.end_at_once()
            self._start(config, hydra)

    def _start(self, config: Any, hydra: Any) -> None:
        from omegaconf import OmegaConf

        allocator.keep_freed()
        if "mesh" in config:  # of commands that compute
            compiled.keep()
        place = self.folder.place if self.folder else Path(config.get("run") or "")
        if self.multirun:
            place /= str(hydra.job.num)
            place.mkdir(exist_ok=True)
        overrides = OmegaConf.to_container(hydra.overrides.task)  # unresolved
        if hydra.runtime.choices["hydra/launcher"] == "joblib":
            accelerators.claim()
        try:
            if self.makes_run and distributed.process_info(config.mesh)[0] > 0:
                code = self._follow(place, config)
            elif self.makes_run or self.multirun:
                with run_folder.lock(place):
                    code = self._run_in(place, config, overrides)
            else:
                with preemption.stopping():
                    self._work(config, place, overrides)
                code = 0
        except Exception as error:
            code = self._report(error)
        if code and not self.multirun:
            sys.exit(code)

    def _run_in(self, place: Path, config: Any, overrides: list[str]) -> int:
        """Run the command in a folder that is ours; returns the exit code."""
        if run_folder.status(place).get("state") == "finished":
            print(f"{place} is finished already")
            return 0
        try:
            with run_folder.running(place, self.name) as facts, preemption.stopping():
                print(f"run folder: {place}", flush=True)
                facts |= self._work(config, place, overrides)
        except Exception as error:
            return self._report(error)
        print(f"run folder: {place}", flush=True)
        return 0

    def _follow(self, place: Path, config: Any) -> int:
        """Run the command beside process 0, which looks after the folder; returns the exit code."""
        from omegaconf import OmegaConf

        place.mkdir(parents=True, exist_ok=True)  # it may be here before process 0
        if run_folder.status(place).get("state") != "finished":
            command = OmegaConf.to_object(config)
            virtual_devices(command)
            self.main(command, place)
        return 0

    def _work(self, config: Any, place: Path, overrides: list[str]) -> dict[str, str]:
        """Call the command's main; returns where its results are, for the status of a job whose
        folder that is not.
        """
        from omegaconf import OmegaConf

        command = OmegaConf.to_object(config)
        check_command(command)
        virtual_devices(command)
        if not self.takes_run:
            self.main(command)
            return {}
        sys.argv = self.words[2:]
        facts = run_folder.facts_of(command, self.words)
        if self.makes_run:
            run_folder.check_same(place, command)
            run_folder.describe(place, command, overrides, facts)
            self.main(command, place)
            return {}
        run = Path(command.run)
        if hasattr(command, "eval"):
            _inherit_evaluation(command, overrides)
        results = self.main(command, run) or run
        # Only now: until then the results in the folder are those of the command before.
        run_folder.describe(results / self.name, command, overrides, facts)
        return {"results": str(results.resolve())}

    def again(self, place: Path) -> str:
        """Returns the command that goes on with what was stopped.

        Args:
            place: folder of the run or the sweep.
        """
        if not self.makes_run:
            return shlex.join(self.words)
        keys = [word.lstrip("+").partition("=")[0] for word in self.words]
        words = [word for word, key in zip(self.words, keys, strict=True) if key != "resume"]
        named = {} if "run" in keys else {"run": str(place)}
        return f"{shlex.join(words)} {pasteable(named | {'resume': 'true'})}"

    def _report(self, error: Exception) -> int:
        """Print an error as its kind deserves, bad input of a sweep's job later; returns the exit
        code.
        """
        bad_input = is_our_word(error)
        if not bad_input or "HYDRA_FULL_ERROR" in os.environ:
            traceback.print_exception(error)
        elif not self.multirun:
            say(self.name, error)
        return 2 if bad_input else 1


def parent_of(command: Any, name: str) -> Path:
    """Where the new folders of a command's runs go."""
    return run_folder.RUNS / getattr(command, "task", name)


def virtual_devices(command: Any) -> None:
    """Ask XLA for `mesh.virtual_devices` devices on the CPU, beside what XLA_FLAGS holds; to be
    called before jax is imported.

    Raises:
        SettingError: XLA_FLAGS asks for another number.
    """
    count = getattr(getattr(command, "mesh", None), "virtual_devices", 0)
    if not count:
        return
    flag = "--xla_force_host_platform_device_count"
    present = os.environ.get("XLA_FLAGS", "").split()
    other = [word for word in present if word.startswith(flag) and word != f"{flag}={count}"]
    if other:
        reject(
            f"mesh.virtual_devices={count}: the environment's XLA_FLAGS says {other[0]}",
            "the same number in both, or one of them alone",
        )
    os.environ["XLA_FLAGS"] = " ".join(dict.fromkeys([*present, f"{flag}={count}"]))
    os.environ.setdefault("JAX_PLATFORMS", "cpu")


def trained(folder: str) -> Any:
    """The settings of a trained run."""
    from agentic_transformer.config import TrainCommand

    return run_folder.read_config(Path(folder), TrainCommand)


def _inherit_evaluation(command: Any, overrides: list[str]) -> None:
    """Take the evaluation settings that no override names from the run that is evaluated."""
    said = {word.lstrip("+").split("=", 1)[0] for word in overrides}
    base = trained(command.run).eval
    if "eval" in said:
        return
    for key in vars(base):
        if f"eval.{key}" not in said:
            setattr(command.eval, key, getattr(base, key))
