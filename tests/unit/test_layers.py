# SPDX-License-Identifier: GPL-2.0-or-later
"""Holds the rules of the imports: one way only, light where `record` runs, bcc in one place."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "balloontrace"

# A module imports from its own layer and from those above it in this list.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors", "events", "untrusted"),
    (
        *(
            "units",
            "stats",
            "results",
            "tracks",
            "pictures",
            "comparison",
            "layout",
            "hostlayout",
            "outputfile",
            "pageset",
            "moved",
        ),
        *("messages", "parameters", "streams", "libraries"),
    ),
    (
        "kernel",
        "balloonsize",
        "kprobe",
        "machine",
        "libbpf",
        "probes",
        "wire",
        "bitmap",
        "recording",
        "metadata",
        "ring",
        "vmm",
        "hostprobes",
        "hostcounters",
        "livecounters",
    ),
    (
        "payloads",
        "workitems",
        "consistency",
        "operations",
        "calls",
        "clocks",
        "shifts",
        "matching",
        "candidates",
        "attacher",
        "loader",
        "trial",
        "firing",
        "attachedprograms",
        "collector",
        "hostcollector",
    ),
    (
        "diagnosis",
        "command",
        "pace",
        "unseen",
        "driverwatch",
        "progress",
        "session",
        "hostdiagnosis",
        "hostsession",
        "attaching",
        "liveview",
        "livesource",
        "liveloop",
        "terminal",
    ),
    (
        "windows",
        "carried",
        "stages",
        "bothsides",
        "hostanalysis",
        "verdict",
        "balloons",
        "checks",
        "analysis",
    ),
    ("rawevents", "timeline", "depict"),
    (
        *("order", "pairs", "drift", "evidence", "replicates", "copies", "differences", "group", "compare"),
        *("sources", "render"),
    ),
    ("commands",),
    ("cli", "__main__"),
)
HEAVY = frozenset({"numpy", "pandas", "rich", "scipy", "tabulate", "jinja2", "bcc"})


@cache
def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name below it."""
    return {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
        for path in sorted(PACKAGE.rglob("*.py"))
        if path != PACKAGE / "__init__.py"
    }


@cache
def imports(path: Path, *, at_import_time: bool = False) -> set[str]:
    """Dotted names a module imports, anywhere or only when it is itself imported; none for types only."""
    found: set[str] = set()
    pending: list[ast.AST] = [ast.parse(path.read_text())]
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
    """Of dotted names, the modules of this package they lie in."""
    known = modules()
    found: set[str] = set()
    for name in names:
        parts = name.split(".")
        if parts[0] == "balloontrace":
            tails = (".".join(parts[1:end]) for end in range(len(parts), 1, -1))
            found.update(tail for tail in [next((tail for tail in tails if tail in known), "")] if tail)
    return found


def layer(module: str) -> int:
    top = module.split(".")[0]
    for number, names in enumerate(LAYERS):
        if top in names:
            return number
    return pytest.fail(f"balloontrace/{module} is in no layer; give it one in {Path(__file__).name}")


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


@pytest.mark.parametrize("module", modules())
def test_imports_go_one_way(module: str) -> None:
    upward = [name for name in own(imports(modules()[module])) if layer(name) > layer(module)]
    assert not upward


def test_no_module_imports_itself_by_a_detour() -> None:
    known = modules()
    direct = {module: own(imports(path)) - {module} for module, path in known.items()}
    for module in known:
        behind = set().union(*(reachable(name) for name in direct[module]))
        assert module not in behind


def test_recording_and_collector_do_not_know_each_other() -> None:
    known = modules()
    assert {"collector", "loader", "attacher"} <= set(known)
    for module in ("collector", "loader", "attacher"):
        assert "recording" not in reachable(module)
    assert not {"collector", "loader", "attacher"} & reachable("recording")


@pytest.mark.parametrize("module", [name for name in modules() if name.startswith("render")])
def test_render_knows_neither_pandas_nor_recordings(module: str) -> None:
    names = imports(modules()[module])
    assert not {name.split(".")[0] for name in names} & {"pandas", "numpy", "scipy", "bcc"}
    assert not {"recording", "wire", "metadata"} & own(names)


@pytest.mark.parametrize("start", [name for name in ("recording", "commands.record") if name in modules()])
def test_what_records_is_light(start: str) -> None:
    for module in reachable(start):
        tops = {name.split(".")[0] for name in imports(modules()[module])}
        assert not tops & (HEAVY - {"bcc"}), module


@pytest.mark.parametrize("module", [name for name in modules() if name.split(".")[0] in ("commands", "cli")])
def test_commands_import_heavy_things_late(module: str) -> None:
    pending, seen = [module], set()
    while pending:
        current = pending.pop()
        names = imports(modules()[current], at_import_time=True)
        assert not {name.split(".")[0] for name in names} & HEAVY, current
        seen.add(current)
        pending.extend(own(names) - seen)


def test_only_the_attacher_imports_bcc() -> None:
    users = {
        module for module, path in modules().items() if "bcc" in {n.split(".")[0] for n in imports(path)}
    }
    assert users == {"attacher"}


def test_only_the_command_line_exits() -> None:
    for module, path in modules().items():
        if module not in ("cli", "__main__"):
            calls = [
                node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)
            ]
            assert not {"sys.exit", "exit", "quit"} & {ast.unparse(call) for call in calls}, module
