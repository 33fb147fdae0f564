"""The command that plans: several settings at once, what cannot be, and reports without the TPU
compiler."""

import importlib.util
import sys

import pandas as pd
import pytest

from agentic_transformer.capacity import compiler, outcome
from agentic_transformer.capacity.hlo_permutes import Permute
from agentic_transformer.config import PlanCommand
from experiments import plan
from experiments.cli import app as cli

# The words, and what the error must say.
BAD = [
    ("topology=v5e:4x44", "nearest: v5e:4x4"),
    ("topology=v5e:4x5", "v5e:16x16"),
    ("topology=v5:4x4", "nearest: v5e:4x4"),
    ("topology=v5:4x4", "allowed: several of each kind, for example a100:8, "),
    ("topology=v5e", "allowed: v5e:2x2, v5e:2x4"),
    ("topology=a100:0", "allowed: a100:1, a100:2"),
    ("topology=a100:16", "allowed: a100:1, a100:2"),
    ("topology=h100_infiniband:20", "h100_infiniband:<devices>, whole hosts of 8, at least two"),
    ("topology=h100_infiniband:8", "nearest: h100_infiniband:32"),
    ("topology=v5e:4x4,v5e:5x5", "topology=v5e:5x5: no such topology"),
    ("topology=v5e:4x4 ring=3", "allowed: 1, 2, 4, 8, 16"),
    ("model=at_350m,llama_8b", "nearest: llama_7b"),
    ("solve=contxt", "nearest: context"),
    ("trajectories=0", "from 1 to"),
    ("trajectories=32,many", "trajectories=many"),
    ("model.heads=3", "does not divide"),
    ("-m topology=v5e:4x4,v5p:4x4x4", "without -m"),
    ("model.attention=all_gather", "allowed: blockwise, dense, memory_efficient, ring"),
    ("ring=4 model.attention=blockwise", "allowed: ring=1, or model.attention=ring"),
    ("compile=nothing model.dtype=float32", "model.dtype=float32: not estimated"),
    (
        "compile=nothing model=paper",
        "allowed: model.dtype=bfloat16 model.remat=block model.scan_layers=true",
    ),
    ("compile=nothing model.attention=dense", "allowed: model.blockwise_feedforward=false"),
    ("compile=nothing model.kernel=reference", "allowed: model.kernel=auto, or compile=memory"),
    ("topology=h100:8 model.kernel=splash", "allowed: auto, cudnn"),
    ("topology=v5e:4x4 model.kernel=cudnn", "that kernel is for GPUs"),
    ("topology=v5e:4x4,h100:8 model.kernel=splash compile=nothing", "with topology=h100:8"),
    ("compile=all", "allowed: memory, nothing, schedule"),
]


def run(main, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["plan", *words.split()])
    cli.run(main, PlanCommand, takes_all=True)


def never(commands):
    raise AssertionError("bad input reached the command")


@pytest.mark.parametrize(("words", "says"), BAD)
def test_bad_input(words, says, tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit) as stopped:
        run(never, words, tmp_path, monkeypatch)
    error = capsys.readouterr().err.rstrip("\n")
    assert stopped.value.code == 2
    assert says in error
    assert len(error.split("\n")) <= 3
    assert not list(tmp_path.iterdir())


def test_several_values_are_planned_together(tmp_path, monkeypatch):
    taken = []

    def keep(commands):
        taken.extend(commands)

    run(
        keep,
        "topology=v5e:4x4,a100:8 model=at_350m,llama_7b trajectories=32",
        tmp_path,
        monkeypatch,
    )
    found = [(command.topology, command.model.width, command.trajectories) for command in taken]
    assert found == [
        ("v5e:4x4", 1024, 32),
        ("v5e:4x4", 4096, 32),
        ("a100:8", 1024, 32),
        ("a100:8", 4096, 32),
    ]


def test_plans_for_several_folders_are_refused(tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit) as stopped:
        run(plan.main, "compile=nothing out=one,other", tmp_path, monkeypatch)
    assert stopped.value.code == 2
    assert "out=one for some plans and out=other for others" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("topology", "extra"), [("v5e:4x4", "tpu"), ("h100:8", "cuda12")])
def test_without_the_compiler_one_line_says_what_to_install(
    topology, extra, tmp_path, monkeypatch, capsys
):
    find, compilers = importlib.util.find_spec, ("libtpu", "jax_cuda12_plugin", "jax_cuda13_plugin")
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in compilers else find(name)
    )
    with pytest.raises(SystemExit) as stopped:
        run(plan.main, f"topology={topology} out=out", tmp_path, monkeypatch)
    error = capsys.readouterr().err.rstrip("\n")
    assert stopped.value.code == 2
    assert f"EXTRAS={extra}" in error and "compile=nothing" in error and "\n" not in error


def test_what_needs_no_compiler_is_reported_without(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(compiler, "available", lambda platform: False)
    run(
        plan.main,
        "topology=a100:8,v5e:4x4 compile=nothing solve=context out=out",
        tmp_path,
        monkeypatch,
    )
    said = capsys.readouterr().out
    assert said.count("An estimate alone") == 2
    table = pd.read_csv(tmp_path / "out" / "plan.csv")
    assert list(table.topology) == ["a100:8", "v5e:4x4"]
    assert (table.estimated_peak < table.limit).all() and (
        table.estimated_peak > 0.9 * table.limit
    ).all()
    kinds = [name for name in table if name.startswith("estimated_") and name != "estimated_peak"]
    assert table[kinds].sum(axis=1).to_numpy() == pytest.approx(
        table.estimated_peak.to_numpy(), rel=1e-2
    )
    assert (tmp_path / "out" / "plan.png").stat().st_size > 0
    assert (
        "## 303M parameters (24 layers of 1024) on a100:8"
        in (tmp_path / "out" / "plan.md").read_text()
    )


def test_what_was_compiled_is_found_again(tmp_path, monkeypatch, capsys):
    compiled = []

    def stub(workload, *, fast):
        compiled.append((workload.tokens, fast))
        if workload.tokens > 20_000:
            return outcome.Refused(2**35, 2**34)
        permute = Permute(True, "forward", 8, True, True)
        return outcome.Accepted(
            outcome.Memory(2**33, 2**20, 2**20, 2**20, 2**33), () if fast else (permute,)
        )

    monkeypatch.setattr(compiler, "compile_step", stub)
    words = "topology=v5e:4x4 trajectories=32,128 out=out"
    for _ in range(2):
        run(plan.main, words, tmp_path, monkeypatch)
    assert compiled == [(8000, True), (8000, False), (32000, True)]
    report = (tmp_path / "out" / "plan.md").read_text()
    assert "The compiler accepts it, 7.75 GiB are left" in report
    assert "The compiler refuses it: 32.00 GiB would be needed" in report
    assert "forward, 1 of 1 permutes beside computation, 1 beside matrix products" in report


@pytest.mark.parametrize("solve", ["", "solve=context"])
def test_what_is_refused_as_it_would_run_does_not_fit(solve, tmp_path, monkeypatch, capsys):
    """Although the fast compilation of it was accepted."""

    def stub(workload, *, fast):
        return (
            outcome.Accepted(outcome.Memory(2**33, 0, 0, 0, 0), ())
            if fast
            else outcome.Refused(2**35, 2**34)
        )

    monkeypatch.setattr(compiler, "compile_step", stub)
    run(plan.main, f"topology=v5e:4x4 {solve} out=out", tmp_path, monkeypatch)
    report = (tmp_path / "out" / "plan.md").read_text()
    assert "The compiler refuses it: 32.00 GiB would be needed" in report
    assert "accepts" not in report and "tokens fit" not in report
    assert list(pd.read_csv(tmp_path / "out" / "plan.csv").verdict) == ["refused: needs 32.00 GiB"]


def test_a_report_says_what_its_estimate_is_not_of(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        compiler, "compile_step", lambda workload, *, fast: outcome.Refused(2**35, 2**34)
    )
    for words, says in (("", False), ("model.dtype=float32 model.remat=none", True)):
        run(plan.main, f"topology=v5e:4x4 compile=memory out=out {words}", tmp_path, monkeypatch)
        report = (tmp_path / "out" / "plan.md").read_text()
        assert ("assumes model.dtype=bfloat16 model.remat=block instead." in report) == says


@pytest.mark.slow
def test_backbones_that_do_not_share_a_sequence_need_no_settings_of_a_ring(
    tmp_path, monkeypatch, capsys
):
    words = "topology=v5e:4x4 model.blockwise_feedforward=false compile=nothing"
    words += " model.attention=dense,memory_efficient ring=null,1"
    run(plan.main, f"{words} solve=context out=out", tmp_path, monkeypatch)
    assert list(pd.read_csv(tmp_path / "out" / "plan.csv").ring) == 4 * [1]
