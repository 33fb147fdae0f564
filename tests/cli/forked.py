"""Serves command lines, each in a fork of a process that has everything imported: 0.2 s instead of
1.5.

A request is a line of JSON: the command's name, its words, the folder it starts in, and what its
`main` does instead of its work. The answer has the exit code, what was printed, and what `main` was
called with.
"""

import dataclasses
import errno
import json
import os
import random
import signal
import sys
import tempfile
from pathlib import Path


def serve():
    from agentic_transformer import config
    from agentic_transformer.settings import settings_of
    from experiments.cli import app as cli  # imported once, before the forks
    from experiments.cli import command_line
    from tests.cli.test_configs import COMMANDS

    command_line.read("train", config.TrainCommand, []).make_settings([])  # loads Hydra's plugins
    replies = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        request = json.loads(line)
        with tempfile.TemporaryDirectory() as place:
            files = {name: Path(place) / name for name in ("stdout", "stderr", "calls")}
            child = os.fork()
            if child == 0:
                random.seed()  # else every fork shuffles alike
                os.chdir(request["folder"])
                for number, name in enumerate(("stdout", "stderr"), 1):
                    os.dup2(os.open(files[name], os.O_CREAT | os.O_WRONLY), number)
                sys.argv = [request["name"], *request["words"]]
                command = COMMANDS[request["name"]]
                main = stub(
                    request["name"], files["calls"], request["does"], "run" in settings_of(command)
                )
                code = 70
                try:
                    cli.run(main, command)
                    code = 0
                except SystemExit as ended:
                    code = ended.code or 0
                except BaseException:
                    import traceback

                    traceback.print_exc()
                finally:
                    sys.stdout.flush()
                    sys.stderr.flush()
                    os._exit(code)
            _, status = os.waitpid(child, 0)
            reply = {
                name: path.read_text() if path.exists() else "" for name, path in files.items()
            }
            reply["code"] = os.waitstatus_to_exitcode(status)
            reply["calls"] = [json.loads(call) for call in reply["calls"].splitlines()]
            print(json.dumps(reply), file=replies, flush=True)


def stub(name, log, does, takes_run):
    """A `main` that notes what it is called with, and then does as told for the seeds that it is
    told of."""

    def work(config, run=None):
        with log.open("a") as calls:
            facts = {"run": None if run is None else str(run), "config": dataclasses.asdict(config)}
            calls.write(json.dumps(facts) + "\n")
        what = does.get(str(getattr(config, "seed", "")), does.get("all", "work"))
        if what == "no data":
            raise UserError("no episodes\n  allowed: some")
        if what == "no device":
            raise RuntimeError("no device")
        if what == "full disk":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/full/params")
        if what == "exit":
            sys.exit("no connection")
        if run is not None and run.is_dir():
            (run / f"{name}.txt").write_text("done")
            if name == "train":
                write_config(run, config)  # as training does
        if what == "crash":
            raise RuntimeError("a fault")
        if what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)

    from agentic_transformer.errors import UserError
    from agentic_transformer.run_files import write_config

    return work if takes_run else lambda config: work(config)


if __name__ == "__main__":
    serve()
