"""Imports run one way, and what must start fast imports nothing slow."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = [
    "envs",
    "datasets",
    "agentic_transformer",
    "experiments",
]  # each may import those before it
# Inside agentic_transformer: each room may import these, and the modules at its top that import
# no room.
INNER = {
    "ring": set(),
    "contexts": {"ring"},
    "models": {"ring", "contexts"},
    "training": {"ring", "contexts", "models"},
    "agents": {"ring", "contexts", "models", "training"},
    "evaluation": {"ring", "contexts", "models", "training", "agents"},
    "capacity": {"ring", "contexts", "models", "training"},
}
SLOW = {"jax", "flax", "optax", "orbax", "torch"}
HYDRA = {"hydra", "omegaconf"}


def imports(path):
    """Dotted names of the modules that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = ".".join(
                path.relative_to(ROOT).parent.parts[
                    : len(path.relative_to(ROOT).parent.parts) - node.level + 1
                ]
            )
            base = node.module if not node.level else ".".join(filter(None, [package, node.module]))
            names |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return names


def files(folder):
    found = sorted((ROOT / folder).rglob("*.py"))
    assert found, f"{folder} is empty"
    return found


def tops(path):
    return {name.split(".")[0] for name in imports(path)}


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_import_only_those_before_them(room):
    later = set(ROOMS[ROOMS.index(room) + 1 :])
    assert {str(path): found for path in files(room) if (found := tops(path) & later)} == {}


def inner_rooms(path):
    """The rooms of agentic_transformer that a file imports."""
    names = (name.split(".") for name in imports(path))
    return {name[1] for name in names if name[0] == "agentic_transformer" and name[1:]} & set(INNER)


@pytest.mark.parametrize("room", INNER)
def test_rooms_of_the_package_import_only_those_before_them(room):
    allowed = INNER[room] | {room}
    found = {
        str(path): inner_rooms(path) - allowed for path in files(f"agentic_transformer/{room}")
    }
    assert {path: rooms for path, rooms in found.items() if rooms} == {}


@pytest.mark.parametrize("name", ["config", "errors", "random_streams", "run_files", "settings"])
def test_what_every_room_may_import_imports_no_room(name):
    assert inner_rooms(ROOT / "agentic_transformer" / f"{name}.py") == set()


@pytest.mark.parametrize("room", ROOMS)
def test_nothing_private_of_what_carries_commands_is_imported(room):
    """Neither of Hydra nor of the launchers' libraries."""
    libraries = HYDRA | {"hydra_plugins", "joblib", "loky"}
    private = {
        str(path): {
            name
            for name in imports(path)
            if name.split(".")[0] in libraries and ("._" in name or "externals" in name)
        }
        for path in files(room)
    }
    assert {path: names for path, names in private.items() if names} == {}


def test_the_command_line_reaches_into_no_object_of_another_library():
    allowed = {("os", "_exit")}
    reached = set()
    for path in files("experiments/cli"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and re.match("_[^_]", node.attr):
                owner = getattr(node.value, "id", "")
                if owner not in ("self", "cls"):
                    reached.add((owner, node.attr))
    assert reached <= allowed


def test_the_ring_imports_nothing_of_ours():
    outside = {
        str(path): found
        for path in files("agentic_transformer/ring")
        if (
            found := {
                name
                for name in imports(path)
                if name.split(".")[0] in ROOMS
                and not f"{name}.".startswith("agentic_transformer.ring.")
            }
        )
    }
    assert outside == {}


def test_what_carries_commands_imports_none_of_them():
    allowed = ("experiments.cli", "experiments.reports")
    carriers = files("experiments/cli") + files("experiments/reports")
    ours = {
        str(path): {name for name in imports(path) if name.startswith("experiments.")}
        for path in carriers
    }
    assert {
        path: found
        for path, names in ours.items()
        if (found := {n for n in names if not n.startswith(allowed)})
    } == {}


@pytest.mark.parametrize("room", ["envs", "datasets"])
def test_workers_import_no_jax(room):
    assert {str(path): found for path in files(room) if (found := tops(path) & SLOW)} == {}


@pytest.mark.parametrize("room", ["envs", "datasets", "agentic_transformer"])
def test_only_experiments_knows_hydra(room):
    assert {str(path): found for path in files(room) if (found := tops(path) & HYDRA)} == {}


def test_checking_a_command_line_needs_nothing_slow():
    """The settings and the names of tasks are there without jax, MuJoCo and dm_control."""
    script = (
        "import sys, agentic_transformer.config, envs; envs.tasks(); envs.task('walker_walk')\n"
        "print(*({'jax', 'flax', 'mujoco', 'dm_control', 'gymnasium', 'h5py'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""
