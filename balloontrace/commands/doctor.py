# SPDX-License-Identifier: GPL-2.0-or-later
"""`balloontrace doctor`: can a balloon be traced here, and what would be attached."""

from __future__ import annotations

import json
import textwrap
from typing import TYPE_CHECKING

import click

from balloontrace.errors import CannotTraceError

if TYPE_CHECKING:
    from balloontrace.diagnosis import Diagnosis

_MARKS = {"ok": "ok  ", "warning": "warn", "problem": "NO  "}
_INDENT = 17


@click.command("doctor")
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="How to show it.",
)
def doctor(form: str) -> None:
    r"""Say whether the balloon of this machine can be traced, with what, and what mends what is missing.

    \b
    Example:
      sudo balloontrace doctor
    """  # fmt: skip
    from balloontrace.diagnosis import diagnose

    diagnosis = diagnose()
    click.echo(_json(diagnosis) if form == "json" else _text(diagnosis))
    if diagnosis.problems:
        raise CannotTraceError(f"cannot trace here: {diagnosis.problems[0].sentence}")


def _json(diagnosis: Diagnosis) -> str:
    from balloontrace.probes import describe

    return json.dumps(
        {
            "schema_version": 1,
            "can_trace": not diagnosis.problems,
            "findings": [
                {"name": finding.name, "state": finding.state, "text": finding.text, "mend": finding.mend}
                for finding in diagnosis.findings
            ],
            "driver": {"kind": str(diagnosis.driver_kind), "module": diagnosis.plan.driver_module or None},
            "devices": [
                {"name": device.name, "driver": device.driver, "features": list(device.feature_names),
                 "feature_bits": list(device.feature_bits)}
                for device in diagnosis.devices
            ],
            "layout": {"source": diagnosis.layout.source, "offsets_bytes": diagnosis.layout.offsets},
            "boundaries": diagnosis.plan.boundaries,
            "probes": describe(diagnosis.plan),
        },
        indent=2,
    )  # fmt: skip


def _text(diagnosis: Diagnosis) -> str:
    lines = []
    for finding in diagnosis.findings:
        lines += _wrap(f"{_MARKS[finding.state]}  {finding.name:<9}  ", finding.text, _INDENT)
        if finding.mend:
            lines += _wrap(" " * _INDENT + "-> ", finding.mend, _INDENT + 3)
    lines += ["", *_plan_lines(diagnosis)] if diagnosis.plan.driver_found else []
    return "\n".join(lines)


def _plan_lines(diagnosis: Diagnosis) -> list[str]:
    from tabulate import tabulate

    from balloontrace.probes import describe

    described = describe(diagnosis.plan)
    rows = [(row["stage"], row["function"], row["mechanism"] or row["status"]) for row in described]
    table = str(tabulate(rows, headers=("stage", "function", "attached with"), tablefmt="simple"))
    notes = [(row["function"], row["note"]) for row in described if row["note"]]
    return [
        *(line.rstrip() for line in table.splitlines()),
        "",
        *(line for function, note in notes for line in _wrap(f"{function}: ", str(note), 2)),
    ]


def _wrap(start: str, text: str, indent: int) -> list[str]:
    return textwrap.wrap(start + text, 80, subsequent_indent=" " * indent)
