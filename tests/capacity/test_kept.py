"""Compilations that are kept."""

from experiments.capacity.kept import SOURCES
from tests.test_architecture import ROOT, imports

APART = {"contexts/chains.py", "capacity/hardware.py"}
"""What samples real chains; the machines, of which a topology's name says all that is compiled."""


def test_what_is_kept_goes_by_all_code_that_makes_it():
    ours = ROOT / "agentic_transformer"
    sources = {path for pattern in SOURCES for path in ours.glob(pattern)}
    imported = {
        name
        for path in sources
        for name in imports(path)
        if name.startswith("agentic_transformer.")
    }
    modules = {(ROOT / name.replace(".", "/")).with_suffix(".py") for name in imported}
    beside = {path for path in modules - sources if path.exists()}
    assert {str(path.relative_to(ours)) for path in beside} == APART
