# SPDX-License-Identifier: GPL-2.0-or-later
"""`balloontrace export`: the single events of one side or of both, for other tools."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from balloontrace.console.option_types import RECORDING
from balloontrace.console.standard_streams import write_stdout
from balloontrace.console.stderr import warn
from balloontrace.errors import BalloontraceError, UsageError

if TYPE_CHECKING:
    from balloontrace.analysis.make_report import Examined
    from balloontrace.console.output_file import OutputFile
    from balloontrace.format.recording import Recording

FORMATS = ("csv", "ndjson", "perfetto", "markdown")

_METADATA, _HOST_METADATA = "metadata.json", "host-metadata.json"
# Whatever a folder of tables may hold.
_FILES = ("spans.csv", "payloads.csv", "counters.csv", "batches.csv", _METADATA, _HOST_METADATA)


@click.command("export")
@click.argument("recording", type=RECORDING)
@click.argument("host_recording", type=RECORDING, required=False)
@click.option(
    "--format",
    "form",
    type=click.Choice(FORMATS),
    default="csv",
    show_default=True,
    help="csv: a row for each event. ndjson: a JSON object a line, metadata first, losses last. perfetto: "
    "a time line for ui.perfetto.dev and chrome://tracing. markdown: the report's tables, as "
    "report --format markdown writes them.",
)
@click.option(
    "-o",
    "output",
    type=click.Path(allow_dash=True),
    default="-",
    help="A file, or - for stdout. With csv, a folder for all tables: spans.csv, payloads.csv, batches.csv, "
    "counters.csv and metadata.json; a .csv file or - holds spans alone, or a host's batches.",
)
@click.option("-f", "--force", is_flag=True, help="Let -o replace files; in a folder, all tables.")
def export(recording: Path, host_recording: Path | None, form: str, output: str, *, force: bool) -> None:
    r"""Write the single events of RECORDING: each traced call of a guest, each buffer a host served.

    With a recording of the host made at the same time, each buffer names its send. A time line then shows
    both sides on one clock. Names have their units. Times are integers in nanoseconds, in a time line in
    microseconds. What was not measured is empty or null. docs/export.schema.json describes every field.

    \b
    Examples:
      balloontrace export examples/stock-inflate.bt -o spans.csv
      balloontrace export guest.bt host.bt --format perfetto -o timeline.json
    """
    from balloontrace.analysis.make_report import examine
    from balloontrace.commands.report import read_recordings

    # As a path, nothing would be the current folder.
    if not output:
        raise UsageError("-o takes a name; give - for standard output, or . for this folder")
    sources = read_recordings(recording, host_recording)
    examined = examine(*sources)
    if form == "csv":
        _export_csv(sources, examined, Path(output), force=force)
    else:
        _write(Path(output), _texts(examined, form), force=force)
    warn(examined.report.warnings)


def _texts(examined: Examined, form: str) -> Iterator[str]:
    match form:
        case "ndjson":
            from balloontrace.export.event_rows import described_events
            from balloontrace.render.export.ndjson import render_ndjson

            return render_ndjson(described_events(examined))
        case "perfetto":
            from balloontrace.export.make_time_line import build_timeline
            from balloontrace.render.export.perfetto import render_perfetto

            return render_perfetto(build_timeline(examined))
        case _:
            from balloontrace.render.blocks_markdown import write_markdown
            from balloontrace.render.report.sections import describe_report

            return iter([write_markdown(describe_report(examined.report))])


def _export_csv(sources: Sequence[Recording], examined: Examined, output: Path, *, force: bool) -> None:
    tables = {name: texts for name, texts in _tables(sources, examined) if texts is not None}
    if str(output) != "-" and (output.suffix != ".csv" or output.is_dir()):
        _write_folder(output, sources, tables, force=force)
        return
    if examined.guest is not None and examined.host is not None:
        raise UsageError("spans and batches are two tables: give a folder for them with -o")
    _write(output, tables["batches" if examined.guest is None else "spans"], force=force)


def _tables(sources: Sequence[Recording], examined: Examined) -> Iterator[tuple[str, Iterator[str]]]:
    """Each table there is, with its text."""
    from balloontrace.analysis.metadata import is_of_host
    from balloontrace.export import event_rows
    from balloontrace.render.csv_rows import render_chunks

    guest, host = examined.guest, examined.host
    if guest is not None:
        yield "spans", render_chunks(event_rows.SPAN_COLUMNS, event_rows.span_rows(guest.spans))
        if guest.payloads.found:
            yield "payloads", render_chunks(event_rows.PAYLOAD_COLUMNS, event_rows.payload_rows(guest))
        source = next(each for each in sources if not is_of_host(each))
        yield "counters", render_chunks(event_rows.COUNTER_COLUMNS, event_rows.counter_rows(source))
    if host is not None:
        rows = event_rows.batch_rows(host.batches, examined.both)
        yield "batches", render_chunks(event_rows.BATCH_COLUMNS, rows)


def _write_folder(
    folder: Path, sources: Sequence[Recording], tables: dict[str, Iterator[str]], *, force: bool
) -> None:
    """Write every table into `folder`, which is made if need be: all of them or, if one is in the way, none.

    With `force` no table of an earlier export stays beside them.
    """
    from balloontrace.analysis.metadata import is_of_host

    files = {f"{name}.csv": texts for name, texts in tables.items()}
    for source in sources:
        described = {"metadata": source.metadata, "end": source.end, "damage": list(source.damage)}
        of_host = is_of_host(source) and len(sources) > 1
        name = _HOST_METADATA if of_host else _METADATA
        files[name] = iter([json.dumps(described, indent=1) + "\n"])
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file: CSV goes into a folder, or into one file named *.csv")
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot make the folder {folder}: {error.strerror}") from error
    _write_files({folder / name: texts for name, texts in files.items()}, force=force)
    if force:
        for name in set(_FILES) - set(files):
            _remove(folder / name)


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise BalloontraceError(f"cannot remove {path}: {error.strerror}") from error


def _write(path: Path, texts: Iterator[str], *, force: bool) -> None:
    if str(path) == "-":
        write_stdout(texts)
    else:
        _write_files({path: texts}, force=force)


def _write_files(files: Mapping[Path, Iterator[str]], *, force: bool) -> None:
    """Write files that get their names only when all are written."""
    from balloontrace.console.output_file import open_output

    with ExitStack() as stack:
        opened = [stack.enter_context(open_output(path, force=force)) for path in files]
        for file, texts in zip(opened, files.values(), strict=True):
            _write_texts(file, texts)
        for file in opened:
            file.publish()


def _write_texts(file: OutputFile, texts: Iterator[str]) -> None:
    try:
        with open(file.fd, "w", encoding="utf-8", errors="replace", closefd=False) as stream:
            for text in texts:
                stream.write(text)
    except OSError as error:
        raise BalloontraceError(f"cannot write {file.path}: {error.strerror}") from error
