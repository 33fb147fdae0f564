"""Imports run one way, and packages that must start fast import nothing slow."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Each package may import those before it.
ROOMS = ["envs", "datasets", "agentic_transformer", "experiments"]
# Within agentic_transformer: each package -> the others that it may import. All but the ring may
# import the modules beside the packages.
WITHIN = {
    "ring": set(),
    "contexts": {"ring"},
    "models": {"ring", "contexts"},
    "training": {"ring", "contexts", "models"},
    "agents": {"ring", "contexts", "models", "training"},
    "online": {"ring", "contexts", "models", "training"},
    "evaluation": {"ring", "contexts", "models", "training", "agents"},
    "capacity": {"ring", "contexts", "models", "training"},
}
SLOW = {"jax", "flax", "optax", "orbax", "torch"}
HYDRA = {"hydra", "omegaconf"}


def imports(path):
    """Returns the dotted names that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            folders = path.relative_to(ROOT).parent.parts
            package = ".".join(folders[: len(folders) - node.level + 1])
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


@pytest.mark.parametrize("room", WITHIN)
def test_packages_of_the_library_import_only_those_below_them(room):
    others = WITHIN.keys() - WITHIN[room] - {room}
    found = {
        str(path): wrong
        for path in files(f"agentic_transformer/{room}")
        if (wrong := {n for n in imports(path) if within(n) in others})
    }
    assert found == {}


def within(name):
    """Returns `ring` of `agentic_transformer.ring.api`; empty for other packages."""
    package, _, rest = name.partition(".")
    return rest.partition(".")[0] if package == "agentic_transformer" else ""


def test_every_package_of_the_library_has_its_place():
    packages = {path.parent.name for path in (ROOT / "agentic_transformer").glob("*/__init__.py")}
    assert packages == WITHIN.keys()


@pytest.mark.parametrize(
    "name",
    [
        "config",
        "earlier_settings",
        "errors",
        "imports",
        "learners",
        "random_streams",
        "run_files",
        "same_run",
        "settings",
    ],
)
def test_what_every_package_may_import_imports_none_of_them(name):
    found = imports(ROOT / "agentic_transformer" / f"{name}.py")
    assert not {within(n) for n in found} & WITHIN.keys()


@pytest.mark.parametrize("room", ROOMS)
def test_no_private_module_of_hydra_or_its_launchers_is_imported(room):
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


def test_the_cli_reaches_into_no_object_of_another_library():
    reached = set()
    for path in files("experiments/cli"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and re.match("_[^_]", node.attr):
                owner = getattr(node.value, "id", "")
                if owner not in ("self", "cls"):
                    reached.add((owner, node.attr))
    assert reached <= {("os", "_exit")}


def test_the_cli_and_reports_import_no_command():
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
    """Settings and names of tasks load without jax, MuJoCo and dm_control."""
    script = (
        "import sys, agentic_transformer.config, envs; envs.tasks(); envs.task('walker_walk')\n"
        "print(*({'jax', 'flax', 'mujoco', 'dm_control', 'gymnasium', 'h5py'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""
