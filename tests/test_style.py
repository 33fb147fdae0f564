"""Checks the house's style: docstrings, line length, private names, imports inside functions."""

import pytest

from tests import style

# Files that need a private name of another package, each with its reason.
PRIVATE = {
    "agentic_transformer/ring/kernels/cudnn.py": "jax has no public attention with its lse",
    "agentic_transformer/ring/kernels/splash.py": "jax has no public gradient that takes an lse",
    "experiments/benchmarks/ring_speed.py": "the paper's package asks for jax.lib.xla_bridge",
}
ROOMS = sorted({style.room_of(path) for path in style.modules()})
TESTS = sorted({style.room_of(path) for path in (style.ROOT / "tests").rglob("*.py")})


def problems(room, check):
    """Returns the problems of a room's files, by the path of the file."""
    paths = sorted((style.ROOT / room.split("/")[0]).rglob("*.py"))
    found = {
        str(path.relative_to(style.ROOT)): check(path.read_text(encoding="utf-8"))
        for path in paths
        if style.room_of(path) == room
    }
    return {path: lines for path, lines in found.items() if lines}


@pytest.fixture(scope="module")
def inherited():
    """The documented methods of all classes of ours."""
    found = {}
    for path in style.modules():
        for name, methods in style.documented_methods(path.read_text(encoding="utf-8")).items():
            found[name] = found.get(name, set()) | methods
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_docstrings_begin_with_a_verb(room, inherited):
    assert problems(room, lambda source: style.docstring_problems(source, inherited)) == {}


@pytest.mark.parametrize("room", ROOMS + TESTS)
def test_lines_fit_100_columns(room):
    assert problems(room, style.long_lines) == {}


@pytest.mark.parametrize("room", ROOMS)
def test_no_private_name_of_another_module_is_used(room):
    found = problems(room, style.private_uses)
    assert {path: uses for path, uses in found.items() if path not in PRIVATE} == {}


@pytest.mark.parametrize("room", ROOMS)
def test_imports_inside_functions_say_why(room):
    assert problems(room, style.unexplained_imports) == {}


def test_verbs_are_sorted():
    assert list(style.VERBS) == sorted(set(style.VERBS))


GOOD_DOCSTRINGS = '''
"""Holds numbers."""

class Base:
    """Describes one number."""

    def value(self):
        """Returns it."""

class Special(Base):
    """Describes another number."""

    def value(self):
        return 1

    @property
    def size(self):
        """Returns the size."""

    @size.setter
    def size(self, size):
        pass

    def __len__(self):
        return 2

    def _helper(self):
        pass

def _private():
    """What nobody calls."""

def public():
    """Computes a sum."""
    def inner():
        pass
'''


@pytest.mark.parametrize(
    ("good", "bad", "problem"),
    [
        ('"""Holds numbers."""', "", "module has no docstring"),
        ('"""Holds numbers."""', '"""What numbers there are."""', "module begins with 'What'"),
        ('"""Describes one number."""', '"""A number."""', "Base begins with 'A'"),
        ('"""Computes a sum."""', '"""Compute a sum."""', "public begins with 'Compute'"),
        ('"""Computes a sum."""', '"""Those that are summed."""', "public begins with 'Those'"),
        ('"""Computes a sum."""', '"""Numbers of a sum."""', "public begins with 'Numbers'"),
        ('"""Computes a sum."""', "", "public has no docstring"),
        ('"""Returns the size."""', "pass", "Special.size has no docstring"),
        ('"""Returns the size."""', '"""The size."""', "Special.size begins with 'The'"),
        ('"""Returns it."""', "pass", "Base.value has no docstring"),
        ("Special(Base)", "Special(Other)", "Special.value has no docstring"),
        ("return 2", '"""How many."""', "Special.__len__ begins with 'How'"),
    ],
)
def test_a_bad_docstring_is_found(good, bad, problem):
    assert style.docstring_problems(GOOD_DOCSTRINGS) == []
    assert good in GOOD_DOCSTRINGS
    found = style.docstring_problems(GOOD_DOCSTRINGS.replace(good, bad))
    assert problem in " ".join(found)


def test_a_method_inherits_its_docstring_from_a_class_of_another_module():
    source = '"""Holds."""\nclass B(other.Base):\n    """Is one."""\n    def value(self): pass\n'
    assert style.docstring_problems(source, {"Base": {"value"}}) == []
    assert len(style.docstring_problems(source, {"Base": {"size"}})) == 1


def test_a_long_line_is_found():
    assert style.long_lines("x" * 100 + "\n" + "x" * 101) == ["2: 101 columns"]


@pytest.mark.parametrize(
    "source",
    [
        "from jax._src import core",
        "import jax._src.core",
        "from hydra import _internal",
        "from hydra._internal.utils import get_args_parser",
        "from joblib.externals.loky import reusable_executor",
        "override._value",
        "Override._convert_value(1)",
        "Override._convert_value = print",
        "self.override._value",
        "main.__code__",
        "reusable_executor._executor",
        "getattr(override, '_value')",
    ],
)
def test_a_private_name_is_found(source):
    assert len(style.private_uses(source)) == 1


@pytest.mark.parametrize(
    "source",
    [
        "from __future__ import annotations",
        "self._value = 1",
        "super()._value",
        "row._replace(x=1)",
        "os._exit(1)",
        "class A:\n    def f(self, other):\n        self._x = other._x",
        "def _f(): pass\nmodule._f",
        "x.__name__",
    ],
)
def test_a_name_of_its_own_is_no_private_name(source):
    assert style.private_uses(source) == []


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("import a\n\ndef f(): pass", []),
        ("def f():\n    import a", [2]),
        ("class A:\n    def f(self):\n        from a import b", [3]),
        ("def f():\n    if x:\n        import a", [3]),
        ("def f():\n    import a  # slow", []),
        ("def f():\n    # Slow.\n    import a\n    import b", []),
        ("def f():\n    import a\n    import b  # slow", [2]),
        ("def f():\n    # Slow.\n\n    import a", [4]),
        ("def f():\n    from a import (  # slow\n        b,\n    )", []),
        ("def f():\n    x = '# no comment'\n    import a", [3]),
    ],
)
def test_an_import_without_a_comment_is_found(source, lines):
    assert [int(line.split(":")[0]) for line in style.unexplained_imports(source)] == lines
