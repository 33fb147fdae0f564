"""The cache of compilations."""

from agentic_transformer.capacity.compile_cache import SOURCES
from agentic_transformer.capacity.hardware import DEVICES
from tests.test_architecture import ROOT, imports


def test_the_cache_depends_on_all_code_that_makes_an_outcome():
    ours = ROOT / "agentic_transformer"
    sources = {path for pattern in SOURCES for path in ours.glob(pattern)}
    imported = {
        name
        for path in sources
        if path.suffix == ".py"
        for name in imports(path)
        if name.startswith("agentic_transformer.")
    }
    modules = {(ROOT / name.replace(".", "/")).with_suffix(".py") for name in imported}
    assert not {path for path in modules - sources if path.exists()}
    assert set(DEVICES.iterdir()) < sources
