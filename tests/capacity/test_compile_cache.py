"""The cache of compilations."""

from agentic_transformer.capacity.compile_cache import SOURCES
from tests.test_architecture import ROOT, imports

APART = {"capacity/hardware.py"}
"""The machines: a topology's name says all about them that is compiled."""


def test_the_cache_depends_on_all_code_that_makes_an_outcome():
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
