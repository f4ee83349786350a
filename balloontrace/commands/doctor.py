# SPDX-License-Identifier: GPL-2.0-or-later
"""`balloontrace doctor`: can a balloon be traced here, and what would be attached."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from balloontrace.console.standard_streams import write_stdout
from balloontrace.console.stderr import note, verbose_option
from balloontrace.errors import CannotTraceError
from balloontrace.format.vocabulary import Side

if TYPE_CHECKING:
    from balloontrace.trace.guest.diagnosis import Diagnosis
    from balloontrace.trace.host.diagnosis import HostDiagnosis
    from balloontrace.trace.machine_checks import Finding

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
@click.option(
    "--side",
    type=click.Choice([*map(str, Side)]),
    default=Side.GUEST.value,
    show_default=True,
    help="guest: this machine's own balloon; host: processes here that serve one.",
)
@verbose_option
def doctor(form: str, side: str) -> None:
    r"""Say whether the balloon of this machine can be traced, with what, and how to install what is missing.

    \b
    Example:
      sudo balloontrace doctor
    """  # fmt: skip
    if side == Side.HOST:
        _doctor_host(form)
        return
    from balloontrace.trace.guest.diagnosis import diagnose
    from balloontrace.trace.guest.probes import describe

    diagnosis = diagnose()
    note(lambda: _symbol_lines(describe(diagnosis.plan)))
    _show(form, _json(diagnosis) if form == "json" else _text(diagnosis))
    if diagnosis.problems:
        raise CannotTraceError(f"cannot trace here: {diagnosis.problems[0].sentence}")


def _doctor_host(form: str) -> None:
    from balloontrace.trace.host.diagnosis import diagnose_host
    from balloontrace.trace.host.probes import describe_host

    diagnosis = diagnose_host()
    note(lambda: _symbol_lines(describe_host(diagnosis.plan)))
    _show(form, _host_json(diagnosis) if form == "json" else _host_text(diagnosis))
    if diagnosis.problems:
        raise CannotTraceError(f"cannot trace here: {diagnosis.problems[0].sentence}")


def _show(form: str, text: str) -> None:
    write_stdout([f"{text}\n"], for_people=form == "text")


def _host_json(diagnosis: HostDiagnosis) -> str:
    from balloontrace.trace.host.probes import describe_host

    return json.dumps(
        {
            "schema_version": 1,
            "side": Side.HOST,
            "can_trace": not diagnosis.problems,
            "findings": _described_findings(diagnosis.findings),
            "vmms": [asdict(vmm) for vmm in diagnosis.vmms],
            "boundaries": diagnosis.plan.boundaries({}),
            "probes": describe_host(diagnosis.plan),
        },
        indent=2,
    )


def _host_text(diagnosis: HostDiagnosis) -> str:
    from balloontrace.trace.host.probes import describe_host

    return "\n".join([*_finding_lines(diagnosis.findings), "", *_table_lines(describe_host(diagnosis.plan))])


def _described_findings(findings: Sequence[Finding]) -> list[dict[str, str | None]]:
    return [
        {"name": finding.name, "state": finding.state, "text": finding.text, "mend": finding.fix}
        for finding in findings
    ]


def _json(diagnosis: Diagnosis) -> str:
    from balloontrace.trace.guest.probes import describe

    return json.dumps(
        {
            "schema_version": 1,
            "can_trace": not diagnosis.problems,
            "findings": _described_findings(diagnosis.findings),
            "driver": {"kind": str(diagnosis.driver_kind), "module": diagnosis.plan.driver_module or None},
            "devices": [
                {"name": device.name, "driver": device.driver, "features": list(device.feature_names),
                 "feature_bits": list(device.feature_bits)}
                for device in diagnosis.devices
            ],
            "balloons": [asdict(balloon) for balloon in diagnosis.balloons],
            "layout": {"source": diagnosis.layout.source, "offsets_bytes": diagnosis.layout.offsets},
            "boundaries": diagnosis.plan.boundaries,
            "probes": describe(diagnosis.plan),
        },
        indent=2,
    )  # fmt: skip


def _text(diagnosis: Diagnosis) -> str:
    from balloontrace.trace.guest.probes import describe

    plan = ["", *_table_lines(describe(diagnosis.plan))] if diagnosis.plan.driver_found else []
    return "\n".join([*_finding_lines(diagnosis.findings), *plan])


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
