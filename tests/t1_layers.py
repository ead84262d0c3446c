"""Imports run one way (DESIGN.md, Rooms), and the core does no I/O. Read from the source with ast."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "wqfs"
ROOMS = ("abi", "kept", "event", "queue", "together", "watch", "watches", "sim", "fs", "run", "cli")
"""Each may import itself and what stands before it."""
CORE = ROOMS[:8]
HARMLESS = frozenset(
    (
        "__future__", "bisect", "collections", "contextlib", "dataclasses", "difflib", "enum", "errno",
        "functools", "heapq", "itertools", "json", "math", "operator", "os", "random", "re", "select", "string",
        "struct", "sys", "tomllib", "typing",
    )
)  # fmt: skip
"""Modules that the core may import: none waits, opens, or looks at a clock."""
HARMLESS_OF_OS = frozenset(("strerror", "fsencode", "fsdecode"))
HARMLESS_OF_SYS = frozenset(("byteorder", "maxsize"))
TALKING_BUILTINS = frozenset(("open", "print", "input", "breakpoint", "exec", "eval"))

SOURCES = sorted(PACKAGE.rglob("*.py"))
CORE_SOURCES = [path for path in SOURCES if path.relative_to(PACKAGE).parts[0].removesuffix(".py") in CORE]


def name_of(path: Path) -> str:
    return str(path.relative_to(PACKAGE.parent))


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imported_modules(path: Path) -> Iterator[str]:
    """The full names of all modules that a file imports, whatever for."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name_of(path)}:{node.lineno}: a relative import"
            assert node.module is not None
            # `from wqfs.fs import nodes` is of the module wqfs.fs.nodes.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rooms_imported(path: Path) -> set[str]:
    return {parts[1] for name in imported_modules(path) if (parts := name.split("."))[0] == "wqfs" and parts[1:]}


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_imports_of_a_room_are_of_rooms_before_it(path: Path) -> None:
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if room in ROOMS:
        later = set(ROOMS[ROOMS.index(room) + 1 :]) & rooms_imported(path)
        assert not later, f"{room} imports {', '.join(sorted(later))}"


@pytest.mark.parametrize("path", [PACKAGE / "client.py", PACKAGE / "client"], ids=name_of)
def test_client_imports_abi_alone(path: Path) -> None:
    files = [path] if path.is_file() else sorted(path.rglob("*.py"))
    for file in files:
        assert rooms_imported(file) <= {"abi", "client"}


def test_client_and_testing_are_imported_by_no_room_of_the_server() -> None:
    for path in SOURCES:
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if room in ROOMS and room not in ("run", "cli"):
            assert not rooms_imported(path) & {"client", "testing"}, name_of(path)


@pytest.mark.parametrize("path", CORE_SOURCES, ids=name_of)
def test_core_imports_nothing_that_waits_or_does_io(path: Path) -> None:
    outside = {name.split(".")[0] for name in imported_modules(path)} - {"wqfs"}
    assert outside <= HARMLESS, f"imports {', '.join(sorted(outside - HARMLESS))}"


@pytest.mark.parametrize("path", CORE_SOURCES, ids=name_of)
def test_core_uses_constants_and_pure_functions_of_os_alone(path: Path) -> None:
    allowed = {"os": HARMLESS_OF_OS, "sys": HARMLESS_OF_SYS}
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in allowed:
            assert node.attr in allowed[node.value.id] or node.attr.isupper(), f"line {node.lineno}: {node.attr}"
        elif isinstance(node, ast.ImportFrom) and node.module in ("os", "select", "sys"):
            names = {alias.name for alias in node.names}
            assert all(n.isupper() or n in allowed.get(node.module, ()) for n in names), f"line {node.lineno}"


@pytest.mark.parametrize("path", CORE_SOURCES, ids=name_of)
def test_core_calls_no_builtin_that_talks(path: Path) -> None:
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in TALKING_BUILTINS, f"line {node.lineno}: {node.func.id}()"


def test_rooms_are_all_there() -> None:
    for room in ROOMS[:-1]:
        assert (PACKAGE / room).is_dir() or (PACKAGE / f"{room}.py").is_file(), room
