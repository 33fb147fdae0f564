import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.processes import environment as in_a_process

ROOT = Path(__file__).parents[2]
STUB = """
import os, sys
from agentic_transformer.config import TrainCommand
from agentic_transformer.run_files import write_config
from experiments.cli import app as cli
{before}
def main(config, run):
    print("seed", config.seed, "jax" in sys.modules, os.environ.get("XLA_FLAGS"))
    write_config(run, config) if (run / "config.yaml").exists() else None  # as training does
    writes = run.is_dir() and "quiet" not in str(run)  # no folder: a process that is not the first
    (run / "seed.txt").write_text(str(config.seed)) if writes else None
{body}

if __name__ == "__main__":
    cli.run(main, TrainCommand)
"""


@pytest.fixture
def command(tmp_path):
    """Runs a stand-in for experiments.train in an empty folder; its main ends with `body`, and
    `before` runs before it."""
    work = tmp_path / "work"
    work.mkdir()

    def run(*words, body="", before="", wait=True, start_new_session=False, **environment):
        script, text = (
            tmp_path / "train.py",
            STUB.format(body="    " + body.replace("\n", "\n    "), before=before),
        )
        if not script.exists() or script.read_text() != text:  # another process may be reading it
            script.write_text(text)
        started = subprocess.Popen(
            [sys.executable, str(script), *words],
            cwd=work,
            env=in_a_process(**environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=start_new_session,
        )
        if not wait:
            return started
        out, err = started.communicate(timeout=600)  # for what hangs, not for what is slow
        return subprocess.CompletedProcess(words, started.returncode, out, err)

    run.folder = work
    return run


@pytest.fixture(scope="session")
def server():
    line = [sys.executable, "-m", "tests.cli.forked"]
    with subprocess.Popen(
        line, cwd=ROOT, env=in_a_process(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:

        def ask(**request):
            print(json.dumps(request), file=process.stdin, flush=True)
            return SimpleNamespace(**json.loads(process.stdout.readline()))

        yield ask
        process.stdin.close()


@pytest.fixture
def forked(server, tmp_path):
    """Runs a command in an empty folder with a stand-in for its `main`; quick, as no interpreter
    starts.

    `does` says by the seed, or for "all", what the stand-in does: "work" (writes a file), "no
    data", "no device", "exit", "crash" and "kill" (after its work).
    """
    folder = tmp_path / "work"
    folder.mkdir()

    def run(name, *words, does=None):
        return server(name=name, words=words, folder=str(folder), does=does or {})

    run.folder = folder
    return run
