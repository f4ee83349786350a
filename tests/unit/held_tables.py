# SPDX-License-Identifier: GPL-2.0-or-later
"""What an object holds, and the objects that it holds: how long each of their tables is."""

from __future__ import annotations

from collections.abc import Iterator

_TABLES = (dict, set, list, tuple, frozenset, bytearray)


def tables_of(root: object) -> dict[str, int]:
    """The lengths of all tables below `root`, by where they are; a table's own content is `[]`."""
    found: dict[str, int] = {}
    seen: set[int] = set()
    pending: list[tuple[str, object]] = [("", root)]
    while pending:
        path, each = pending.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        if isinstance(each, _TABLES):
            found[path] = found.get(path, 0) + len(each)
        pending += ((path + name, inner) for name, inner in _inside(each))
    return found


def _inside(each: object) -> Iterator[tuple[str, object]]:
    if isinstance(each, dict):
        yield from (("[]", value) for value in each.values())
    elif isinstance(each, list | tuple | set | frozenset):
        yield from (("[]", value) for value in each)
    elif getattr(each, "__closure__", None):
        yield from (("()", cell.cell_contents) for cell in each.__closure__ or () if cell.cell_contents)  # type: ignore[attr-defined]
    elif hasattr(each, "__self__"):
        yield "()", each.__self__
    elif type(each).__module__.startswith(("balloontrace", "test_", "prometheus_client")):
        yield from ((f".{name}", value) for name, value in getattr(each, "__dict__", {}).items())
        names = (name for kind in type(each).__mro__ for name in getattr(kind, "__slots__", ()))
        yield from ((f".{name}", getattr(each, name)) for name in names if hasattr(each, name))
