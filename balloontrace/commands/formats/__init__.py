# SPDX-License-Identifier: GPL-2.0-or-later
"""What `--format` offers. Each module of this folder is one format, and is found by being here.

A verb offers the formats that have a function for it. What the function makes is written piece by piece:
text is str, and a binary format makes bytes.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import click

from balloontrace.console.stderr import Command

if TYPE_CHECKING:
    from balloontrace.analysis.make_report import Examined
    from balloontrace.format.recording import Recording
    from balloontrace.results.comparison import Comparison
    from balloontrace.results.fleet_answer import Answer
    from balloontrace.results.measurement import Measurement

Pieces = Iterable[str] | Iterable[bytes]


@dataclass(frozen=True, slots=True)
class Format:
    """A way to show what a verb found; each function is named as its verb, None where the verb lacks it.

    `tables` is for a format that exports several tables, by name, the main one first: they go into a folder.
    `for_people` says that characters which their terminal lacks are replaced.
    """

    name: str
    extension: str
    report: Callable[[Examined], Pieces] | None = None
    compare: Callable[[Comparison], Pieces] | None = None
    measure: Callable[[Measurement], Pieces] | None = None
    fleet: Callable[[Answer], Pieces] | None = None
    export: Callable[[Examined], Pieces] | None = None
    tables: Callable[[Sequence[Recording], Examined], dict[str, Pieces]] | None = None
    export_help: str = ""
    for_people: bool = False


@cache
def formats() -> tuple[Format, ...]:
    """All there are, by their names."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return tuple(importlib.import_module(f"{__name__}.{name}").FORMAT for name in names)


def offered(verb: str) -> dict[str, Format]:
    """The formats of a verb, by name."""
    return {
        each.name: each
        for each in formats()
        if getattr(each, verb) is not None or (verb == "export" and each.tables is not None)
    }


def format_option(verb: str, default: str) -> Callable[[Command], Command]:
    """Give a verb `--format`, as `form`; the default comes first in its help."""
    choices = offered(verb)
    names = [default, *(name for name in choices if name != default)]
    described = [f"{name}: {choices[name].export_help}." for name in names]
    return click.option(
        "--format",
        "form",
        type=click.Choice(names),
        default=default,
        show_default=True,
        callback=lambda _ctx, _option, name: choices[name],
        help=" ".join(described) if verb == "export" else "How to show it.",
    )
