# SPDX-License-Identifier: GPL-2.0-or-later
"""`balloontrace export`: the raw spans and counters of a recording, for other tools."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from balloontrace.errors import BalloontraceError, UsageError

if TYPE_CHECKING:
    from balloontrace.outputfile import OutputFile
    from balloontrace.recording import Recording
    from balloontrace.wire import Spans

SPAN_COLUMNS = (
    "start_ns",
    "duration_ns",
    "function",
    "tid",
    "cpu",
    "device",
    "queue",
    "pages",
    "result",
    "config_calls",
    "config_ns",
    "target_pages",
    "actual_pages",
)

_CHUNK_ROWS = 1 << 16


@click.command("export")
@click.argument("recording", type=click.Path(path_type=Path, allow_dash=True))
@click.option(
    "--format", "form", type=click.Choice(["csv"]), default="csv", show_default=True, help="File format."
)
@click.option(
    "-o",
    "output",
    type=click.Path(path_type=Path, allow_dash=True),
    default="-",
    help="A folder for spans.csv, counters.csv and metadata.json; or a .csv file or - for the spans alone.",
)
@click.option("-f", "--force", is_flag=True, help="Replace files.")
def export(recording: Path, form: str, output: Path, *, force: bool) -> None:
    r"""Write the raw spans of RECORDING, one row for each traced call.

    Units are in the header, times are integers in nanoseconds, an empty field was not measured.

    \b
    Example:
      balloontrace export examples/stock-inflate.bt -o spans.csv
    """
    del form  # The only one so far.
    from balloontrace.layout import parse_span_layout
    from balloontrace.metadata import require_guest_side
    from balloontrace.recording import read_recording
    from balloontrace.wire import decode_spans

    source = read_recording(sys.stdin.buffer if str(recording) == "-" else recording)
    require_guest_side(source)
    spans = decode_spans(source.spans, parse_span_layout(source.metadata.get("span_layout")))
    for warning in _warnings(source, spans):
        click.echo(f"balloontrace: warning: {warning}", err=True)
    if str(output) == "-":
        for text in span_rows(spans):
            click.echo(text, nl=False)
    elif output.suffix == ".csv" and not output.is_dir():
        _write(output, span_rows(spans), force=force)
    else:
        _write_folder(output, source, spans, force=force)


def span_rows(spans: Spans) -> Iterator[str]:
    """The spans as CSV text, some thousand rows at a time, header first."""
    from balloontrace.render.csv import render_rows

    yield render_rows(SPAN_COLUMNS, (), header=True)
    for start in range(0, len(spans), _CHUNK_ROWS):
        chunk = slice(start, start + _CHUNK_ROWS)
        columns = [_column(spans, name, chunk) for name in SPAN_COLUMNS]
        yield render_rows(SPAN_COLUMNS, zip(*columns, strict=True), header=False)


def counter_rows(recording: Recording) -> Iterator[str]:
    """The last counters of the recording as CSV text, one row for each traced function."""
    from balloontrace.events import Function
    from balloontrace.layout import FUNCTION_COUNTER_FIELDS, parse_counters_layout
    from balloontrace.render.csv import render_rows
    from balloontrace.wire import decode_counters

    names = [name for name, _, _ in FUNCTION_COUNTER_FIELDS]
    layout = parse_counters_layout(recording.metadata.get("counters_layout"))
    functions, _ = decode_counters(recording.counters or b"", layout)
    rows = [
        [function.symbol, *(functions[function].get(name) for name in names)]
        for function in Function
        if function < len(functions)
    ]
    yield render_rows(["function", *names], rows, header=True)


def _column(spans: Spans, name: str, chunk: slice) -> list[object]:
    """One column as it is shown: names for numbers, None where the span does not carry the field."""
    from balloontrace.events import Function, Queue, SpanFlag

    flags = {
        "device": SpanFlag.DEVICE,
        "queue": SpanFlag.QUEUE,
        "pages": SpanFlag.PAGES,
        "result": SpanFlag.RESULT,
        "config_calls": SpanFlag.CONFIG,
        "config_ns": SpanFlag.CONFIG,
        "target_pages": SpanFlag.TARGET,
        "actual_pages": SpanFlag.ACTUAL,
    }
    values: list[object] = spans.columns[name][chunk].tolist()
    if name == "function":
        symbols = {int(function): function.symbol for function in Function}
        return [symbols[value] for value in values if isinstance(value, int)]
    if name == "queue":
        queues = {int(queue): queue.name.lower() for queue in Queue}
        values = [queues.get(value, value) if isinstance(value, int) else value for value in values]
    flag = flags.get(name)
    if flag is None:
        return values
    carried = spans.has(flag)[chunk].tolist()
    return [value if there else None for value, there in zip(values, carried, strict=True)]


def _warnings(recording: Recording, spans: Spans) -> Iterator[str]:
    yield from recording.damage
    yield from recording.notes
    if spans.damaged:
        yield f"{spans.damaged} records could not be decoded"
    if recording.end is None:
        yield "the recording has no end record: it was cut off"


def _write_folder(folder: Path, recording: Recording, spans: Spans, *, force: bool) -> None:
    """Write every table into `folder`, which is made if need be."""
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot make the folder {folder}: {error.strerror}") from error
    described = {"metadata": recording.metadata, "end": recording.end, "damage": list(recording.damage)}
    _write(folder / "spans.csv", span_rows(spans), force=force)
    _write(folder / "counters.csv", counter_rows(recording), force=force)
    _write(folder / "metadata.json", iter([json.dumps(described, indent=1) + "\n"]), force=force)


def _write(path: Path, texts: Iterator[str], *, force: bool) -> None:
    from balloontrace.outputfile import open_output

    with open_output(path, force=force) as file:
        _write_texts(file, texts)
        file.publish()


def _write_texts(file: OutputFile, texts: Iterator[str]) -> None:
    try:
        with open(file.fd, "w", encoding="utf-8", closefd=False) as stream:
            for text in texts:
                stream.write(text)
    except OSError as error:
        raise BalloontraceError(f"cannot write {file.path}: {error.strerror}") from error
