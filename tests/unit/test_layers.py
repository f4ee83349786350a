# SPDX-License-Identifier: GPL-2.0-or-later
"""Holds the rules of the imports, by folder: one way only, light where `record` runs, bcc in one place.

No test imports another: what they share is in modules of its own.
"""

from __future__ import annotations

import ast
import enum
from functools import cache
from pathlib import Path

import pytest

from balloontrace.format import vocabulary

TESTS = Path(__file__).parents[1]
PACKAGE = TESTS.parent / "balloontrace"

# What a room may import from, beside itself. A module directly in the package is a room of its own.
BASE = "errors untrusted format units"
ROOMS: dict[str, str] = {
    "errors": "",
    "untrusted": "",
    "results": "format",
    "format": "errors untrusted units",
    "units": "errors format",
    "console": BASE,
    "system": BASE,
    "trace": f"{BASE} console system",
    "live": f"{BASE} console system trace results",
    "analysis": f"{BASE} results",
    "compare": f"{BASE} results analysis",
    "export": f"{BASE} results analysis",
    "archive": f"{BASE} results analysis compare",
    "fleet": f"{BASE} results compare archive",
    "render": "untrusted units format results",
    "make_bundle": "errors",
    "measure": f"{BASE} console system trace",
    "serve": f"{BASE} live system",
    "commands": f"{BASE} console system trace live results analysis compare export render make_bundle "
    "archive measure fleet serve",
    "cli": f"{BASE} console trace commands",
    "__main__": "cli",
}
# Folders of one room that know nothing of each other.
APART = (
    ("trace.guest", "trace.host"),
    tuple(f"render.{kind}" for kind in ("report", "comparison", "measurement", "export", "live", "fleet")),
)
NO_NUMPY = frozenset(
    {"errors", "untrusted", "results", "format", "units", "console", "system", "trace", "live", "render"}
    | {"measure", "serve"}
)
HEAVY = frozenset(
    {"numpy", "pandas", "rich", "scipy", "tabulate", "jinja2", "bcc"}
    | {"duckdb", "fsspec", "ibis", "prometheus_client", "pyarrow", "pyspark"}
)
# Modules that alone import a library, anywhere.
ALONE = {
    "bcc": "trace.engines.bcc_child",
    "rich": "console.terminal",
    "jinja2": "render.html_page",
    "pyarrow": "archive.parquet_files",
    "fsspec": "archive.storage",
    "prometheus_client": "serve.exposition",
    "libvirt": "measure.libvirt_vm",
}
IO_CALLS = frozenset(
    {"open", "print", "read_text", "read_bytes", "write_text", "write_bytes", "unlink", "mkdir"}
)
IO_MODULES = frozenset({"os", "socket", "subprocess", "tempfile", "shutil"})


@cache
def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name below it."""
    return {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
        for path in sorted(PACKAGE.rglob("*.py"))
        if path != PACKAGE / "__init__.py"
    }


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def imports(path: Path, *, at_import_time: bool = False) -> set[str]:
    """Dotted names a module imports, anywhere or only when it is itself imported; none for types only."""
    found: set[str] = set()
    pending: list[ast.AST] = [tree(path)]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide what is imported"
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            pending.extend(node.orelse)
        elif not (at_import_time and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)):
            pending.extend(ast.iter_child_nodes(node))
    return found


def own(names: set[str]) -> set[str]:
    """Of dotted names, the modules of this package they are in."""
    known = modules()
    found: set[str] = set()
    for name in names:
        parts = name.split(".")
        if parts[0] == "balloontrace":
            tails = (".".join(parts[1:end]) for end in range(len(parts), 1, -1))
            found.update(tail for tail in [next((tail for tail in tails if tail in known), "")] if tail)
    return found


def others(names: set[str]) -> set[str]:
    """Of dotted names, the libraries they are in."""
    return {name.split(".")[0] for name in names} - {"balloontrace"}


def room(module: str) -> str:
    return module.split(".")[0]


def reachable(start: str) -> set[str]:
    """A module and all of this package it imports, however late."""
    known, pending = modules(), [start]
    found: set[str] = set()
    while pending:
        module = pending.pop()
        if module not in found:
            found.add(module)
            pending.extend(own(imports(known[module])))
    return found


def users(library: str) -> set[str]:
    return {module for module, path in modules().items() if library in others(imports(path))}


def test_every_room_has_its_rule() -> None:
    assert {room(module) for module in modules()} == set(ROOMS)


@pytest.mark.parametrize("module", modules())
def test_imports_go_one_way(module: str) -> None:
    allowed = {room(module), *ROOMS[room(module)].split()}
    assert not [name for name in own(imports(modules()[module])) if room(name) not in allowed]


@pytest.mark.parametrize("folders", APART)
def test_folders_that_differ_know_nothing_of_each_other(folders: tuple[str, ...]) -> None:
    for module, path in modules().items():
        homes = [folder for folder in folders if module.startswith(f"{folder}.")]
        wrong = tuple(f"{folder}." for folder in folders if folder not in homes)
        assert not homes or not [name for name in own(imports(path)) if name.startswith(wrong)], module


def test_no_module_imports_itself_by_a_detour() -> None:
    known = modules()
    direct = {module: own(imports(path)) - {module} for module, path in known.items()}
    for module in known:
        behind = set().union(*(reachable(name) for name in direct[module]))
        assert module not in behind


def test_what_collects_knows_no_file() -> None:
    for module in (
        "trace.guest.collector",
        "trace.host.collector",
        "trace.engines.bcc",
        "trace.engines.bcc_child",
    ):
        assert "format.recording" not in reachable(module)


def test_an_engine_does_not_know_what_it_attaches_for() -> None:
    for module, path in modules().items():
        if module.startswith("trace.engines"):
            inside = {name for name in own(imports(path)) if room(name) == "trace"}
            assert all(name.startswith("trace.engines") for name in inside), module


def test_numpy_stays_in_the_analysis() -> None:
    assert not {module for module in users("numpy") if room(module) in NO_NUMPY}
    assert {room(module) for module in users("pandas") | users("scipy")} <= {"compare"}


def test_a_library_has_one_module_that_imports_it() -> None:
    assert {library: users(library) for library in ALONE} == {
        library: {module} for library, module in ALONE.items()
    }


def test_what_records_is_light() -> None:
    for module in reachable("commands.record"):
        assert not others(imports(modules()[module])) & (HEAVY - {"bcc"}), module


@pytest.mark.parametrize("module", [name for name in modules() if room(name) in ("commands", "cli")])
def test_commands_import_heavy_things_late(module: str) -> None:
    pending, seen = [module], set()
    while pending:
        current = pending.pop()
        names = imports(modules()[current], at_import_time=True)
        assert not others(names) & HEAVY, current
        seen.add(current)
        pending.extend(own(names) - seen)


@cache
def calls(path: Path) -> set[str]:
    """What a module calls, as it is spelled."""
    nodes = ast.walk(tree(path))
    return {ast.unparse(node.func) for node in nodes if isinstance(node, ast.Call)}


def test_only_the_command_line_exits() -> None:
    for module, path in modules().items():
        assert module in ("cli", "__main__") or not {"sys.exit", "exit", "quit"} & calls(path), module


@pytest.mark.parametrize("module", [name for name in modules() if room(name) in ("render", "results")])
def test_what_renders_reads_and_writes_nothing(module: str) -> None:
    path = modules()[module]
    assert not others(imports(path)) & IO_MODULES
    assert not {call.rpartition(".")[2] for call in calls(path)} & IO_CALLS


@pytest.mark.parametrize("path", sorted(TESTS.rglob("*.py")), ids=lambda path: path.stem)
def test_no_test_imports_another(path: Path) -> None:
    assert not [name for name in imports(path) if name.startswith("test_")]


@cache
def compared(path: Path) -> set[object]:
    """Constants that a module compares with."""
    nodes = (node for node in ast.walk(tree(path)) if isinstance(node, ast.Compare))
    return {word.value for node in nodes for word in ast.walk(node) if isinstance(word, ast.Constant)}


@pytest.mark.parametrize("words", [vocabulary.Side, vocabulary.Kind])
def test_words_that_recordings_use_are_compared_by_their_enums(words: type[enum.StrEnum]) -> None:
    for module, path in modules().items():
        assert not compared(path) & set(words), module
