"""Finds breaches of the house's style in the text of a module, without importing it."""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("envs", "datasets", "agentic_transformer", "experiments")
MAX_COLUMNS = 100

# The words that a docstring may begin with. A new verb is a new line of the file.
VERBS = Path(__file__).with_name("docstring_verbs.txt").read_text(encoding="utf-8").split()
# Methods of named tuples, and a function of the standard library, are public in spite of their
# names.
_PUBLIC = {"_replace", "_asdict", "_fields", "_make", "_exit"}
_INTERNAL_DUNDERS = {"__code__", "__globals__", "__closure__", "__defaults__", "__kwdefaults__"}
_INTERNAL_MODULES = ("joblib.externals", "loky")  # vendored by joblib


def modules() -> list[Path]:
    """Returns the Python files of the packages."""
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def room_of(path: Path) -> str:
    """Returns the first two folders of a file: its room, such as `agentic_transformer/ring`."""
    return "/".join(path.relative_to(ROOT).parent.parts[:2])


def long_lines(source: str) -> list[str]:
    """Lists lines of more than 100 columns."""
    lines = enumerate(source.splitlines(), 1)
    return [f"{number}: {len(line)} columns" for number, line in lines if len(line) > MAX_COLUMNS]


def docstring_problems(source: str, inherited: dict[str, set[str]] | None = None) -> list[str]:
    """Lists public definitions whose docstring is missing or does not begin with a verb.

    A method may go without where the class inherits one of its name from a class of ours, which
    has the docstring, or where it is decorated as an override or as another form of a method that
    has one. Special methods may go without, too.

    Args:
        source: the text of the module.
        inherited: name of a class -> names of its methods that have docstrings, of all modules.
    """
    tree = ast.parse(source)
    if not tree.body:
        return []
    inherited = (inherited or {}) | documented_methods(source)
    return [*_problem(tree, "module"), *_problems_within(tree, "", set(), inherited)]


def documented_methods(source: str) -> dict[str, set[str]]:
    """Returns the methods of each class that have docstrings."""
    classes = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ClassDef))
    return {
        node.name: {each.name for each in node.body if _is_definition(each) and _first_word(each)}
        for node in classes
    }


def _problems_within(
    parent: ast.Module | ast.ClassDef, prefix: str, known: set[str], inherited: dict[str, set[str]]
) -> Iterator[str]:
    """Yields the problems of the public definitions in a module or a class."""
    for node in parent.body:
        if not _is_definition(node) or (node.name.startswith("_") and not _is_special(node.name)):
            continue
        name = prefix + node.name
        may_lack = _is_special(node.name) or node.name in known or _refers_to_another(node)
        if _first_word(node) or not may_lack:
            yield from _problem(node, f"{node.lineno}: {name}")
        if isinstance(node, ast.ClassDef):
            bases = (_last_name(base) for base in node.bases)
            own = set().union(*(inherited.get(base, ()) for base in bases))
            yield from _problems_within(node, f"{name}.", own, inherited)


def _problem(node: ast.AST, where: str) -> Iterator[str]:
    word = _first_word(node)
    if not word:
        yield f"{where} has no docstring"
    elif word not in VERBS:
        yield f"{where} begins with {word!r}, which is no verb in the list"


def _first_word(node: ast.AST) -> str:
    words = (ast.get_docstring(node) or "").split()
    return words[0].rstrip(".,:;") if words else ""


def _is_definition(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)


def _is_special(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")


def _refers_to_another(node: ast.AST) -> bool:
    names = {_last_name(decorator) for decorator in node.decorator_list}
    return bool(names & {"override", "overload", "setter", "deleter"})


def _last_name(node: ast.AST) -> str:
    """Returns `c` of `a.b.c`, `a.b.c[d]` and `a.b.c(d)`."""
    if isinstance(node, ast.Subscript):
        return _last_name(node.value)
    if isinstance(node, ast.Call):
        return _last_name(node.func)
    return getattr(node, "attr", None) or getattr(node, "id", "")


def private_uses(source: str) -> list[str]:
    """Lists uses of names that another module keeps to itself.

    A name with an underscore in front may be used on `self`, `cls` and `super()`, and where the
    same file defines it.
    """
    tree = ast.parse(source)
    own = _PUBLIC | _defined_names(tree)
    return [
        f"{node.lineno}: {ast.unparse(node)}"
        for node in ast.walk(tree)
        if _imports_private(node) or _reaches_private(node, own)
    ]


def _defined_names(tree: ast.Module) -> set[str]:
    names = {node.name for node in ast.walk(tree) if _is_definition(node)}
    stored = [n for n in ast.walk(tree) if isinstance(getattr(n, "ctx", None), ast.Store)]
    names |= {node.id for node in stored if isinstance(node, ast.Name)}
    # `self._x = ...` defines `_x`; `other._x = ...` reaches into another object.
    return names | {
        node.attr for node in stored if isinstance(node, ast.Attribute) and _is_own(node)
    }


def _is_own(node: ast.Attribute) -> bool:
    """Tells whether an attribute is one of `self`, `cls` or `super()`."""
    if isinstance(node.value, ast.Call):
        return _last_name(node.value) == "super"
    return isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")


def _imports_private(node: ast.AST) -> bool:
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and node.module != "__future__":
        names = [f"{node.module or ''}.{alias.name}" for alias in node.names]
    else:
        return False
    private = any(part.startswith("_") for name in names for part in name.split("."))
    internal = (
        f"{name}.".startswith(f"{module}.") for name in names for module in _INTERNAL_MODULES
    )
    return private or any(internal)


def _reaches_private(node: ast.AST, own: set[str]) -> bool:
    if isinstance(node, ast.Attribute):
        if node.attr in _INTERNAL_DUNDERS:
            return True
        return _is_private(node.attr, own) and not _is_own(node)
    if isinstance(node, ast.Call) and _last_name(node) in ("getattr", "setattr", "hasattr"):
        texts = (each.value for each in node.args[1:2] if isinstance(each, ast.Constant))
        return any(isinstance(text, str) and _is_private(text, own) for text in texts)
    return False


def _is_private(name: str, own: set[str]) -> bool:
    return name.startswith("_") and not _is_special(name) and name not in own


def unexplained_imports(source: str) -> list[str]:
    """Lists imports inside functions that have no comment.

    The comment stands on the same line, on the line above, or above a group of imports.
    """
    comments = {
        token.start[0]
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    problems: dict[int, str] = {}
    explained: set[int] = set()  # last lines of imports that have a comment
    for node in _imports_in_functions(ast.parse(source)):
        lines = range(node.lineno - 1, node.end_lineno + 1)
        if comments.intersection(lines) or node.lineno - 1 in explained:
            explained.add(node.end_lineno)
        else:
            problems[node.lineno] = f"{node.lineno}: {ast.unparse(node)}"
    return list(problems.values())


def _imports_in_functions(tree: ast.Module) -> list[ast.Import | ast.ImportFrom]:
    functions = (
        node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    found = {
        node.lineno: node
        for function in functions
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    return [found[line] for line in sorted(found)]
