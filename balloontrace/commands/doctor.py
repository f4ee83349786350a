# SPDX-License-Identifier: GPL-2.0-or-later
"""`balloontrace doctor`: can a balloon be traced here, and what would be attached."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from balloontrace.console.option_types import engine_option, pid_option
from balloontrace.console.standard_streams import write_stdout
from balloontrace.console.stderr import note, verbose_option
from balloontrace.errors import CannotTraceError
from balloontrace.format.vocabulary import Side

if TYPE_CHECKING:
    from balloontrace.trace.machine_checks import Diagnosis, Finding

_MARKS = {"ok": "ok  ", "warning": "warn", "problem": "NO  "}
_INDENT = 17


@click.command("doctor", short_help="Say whether a balloon can be traced here, and how.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="How to show it.",
)
@click.option(
    "--side",
    type=click.Choice([*map(str, Side)]),
    default=None,
    show_default="guest, unless -p is given",
    help="guest: this machine's own balloon; host: processes here that serve one.",
)
@pid_option
@engine_option
@verbose_option
def doctor(form: str, side: str | None, pid: int | None, engine: str) -> None:
    r"""Say whether the balloon of this machine can be traced, with what, and how to install what is missing.

    \b
    Example:
      sudo balloontrace doctor
    """  # fmt: skip
    from balloontrace.trace.attach import make_side, side_of
    from balloontrace.trace.options import TraceOptions

    asked = side or (Side.GUEST if pid is None else "auto")
    options = TraceOptions(pid=pid, engine=engine)
    diagnosis: Diagnosis[Any] = make_side(side_of(asked, pid), options).diagnose()
    rows = diagnosis.plan.describe()
    note(lambda: _symbol_lines(rows))
    text = _json(diagnosis, rows) if form == "json" else _text(diagnosis, rows)
    write_stdout([f"{text}\n"], for_people=form == "text")
    if diagnosis.problems:
        raise CannotTraceError(f"cannot trace here: {diagnosis.problems[0].sentence}")


def _json(diagnosis: Diagnosis[Any], rows: Sequence[Mapping[str, object]]) -> str:
    findings = [
        {"name": finding.name, "state": finding.state, "text": finding.text, "mend": finding.fix}
        for finding in diagnosis.findings
    ]
    return json.dumps(
        {
            "schema_version": 1,
            "can_trace": not diagnosis.problems,
            "findings": findings,
            **diagnosis.describe(),
            "probes": rows,
        },
        indent=2,
    )


def _text(diagnosis: Diagnosis[Any], rows: Sequence[Mapping[str, object]]) -> str:
    table = ["", *_table_lines(rows)] if diagnosis.is_planned else []
    return "\n".join([*_finding_lines(diagnosis.findings), *table])


def _finding_lines(findings: Sequence[Finding]) -> list[str]:
    lines = []
    for finding in findings:
        lines += _wrap(f"{_MARKS[finding.state]}  {finding.name:<9}  ", finding.text, _INDENT)
        if finding.fix:
            lines += _wrap(" " * _INDENT + "-> ", finding.fix, _INDENT + 3)
    return lines


def _table_lines(described: Sequence[Mapping[str, object]]) -> list[str]:
    """A plan's rows as a table, and the notes on them; no library, for one may be what is missing."""
    names = ("stage", "function", "attached with")
    rows = [(row["stage"], row["function"], row["mechanism"] or row["status"]) for row in described]
    texts = [names, *(tuple(map(str, row)) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    lines = [texts[0], tuple("-" * width for width in widths), *texts[1:]]
    notes = [(row["function"], row["note"]) for row in described if row["note"]]
    return [
        *("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines),
        "",
        *(line for function, note in notes for line in _wrap(f"{function}: ", str(note), 2)),
    ]


def _symbol_lines(described: Sequence[Mapping[str, object]]) -> Iterator[str]:
    """Where each probe would be put and what for, a line each: for `-v`."""
    for row in described:
        place = f"{row['symbol'] or 'no symbol'}" + (f" of module {row['module']}" if row["module"] else "")
        yield f"{row['function']}: {row['mechanism'] or row['status']}, {place}: {row['yields']}"


def _wrap(start: str, text: str, indent: int) -> list[str]:
    return textwrap.wrap(start + text, 80, subsequent_indent=" " * indent)
