# SPDX-License-Identifier: GPL-2.0-or-later
"""`balloontrace export`: the single events of one side or of both, for other tools."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from balloontrace.commands.formats import Format, Pieces, format_option
from balloontrace.console.option_types import RECORDING, recorded_vm_option
from balloontrace.console.output_file import (
    names_folder,
    parse_file_name,
    refuse_own_input,
    write_files,
    write_output,
)
from balloontrace.console.stderr import warn
from balloontrace.errors import BalloontraceError, UsageError

if TYPE_CHECKING:
    from balloontrace.format.recording import Recording

_METADATA, _HOST_METADATA = "metadata.json", "host-metadata.json"
# Whatever a folder of tables may hold.
_TABLES = ("spans", "payloads", "counters", "batches")
_DESCRIPTIONS = (_METADATA, _HOST_METADATA)


@click.command("export", short_help="Write the single events of a recording for other tools.")
@click.argument("recording", type=RECORDING)
@click.argument("host_recording", type=RECORDING, required=False)
@format_option("export", default="csv")
@click.option(
    "-o",
    "output",
    type=click.Path(allow_dash=True),
    default="-",
    help="A file, or - for stdout. With csv, a folder for all tables: spans.csv, payloads.csv, batches.csv, "
    "counters.csv and metadata.json; a .csv file or - holds spans alone, or a host's batches.",
)
@click.option("-f", "--force", is_flag=True, help="Let -o replace files; in a folder, all tables.")
@recorded_vm_option
def export(
    recording: Path,
    host_recording: Path | None,
    form: Format,
    output: str,
    *,
    force: bool,
    vm: str | None,
) -> None:
    r"""Write the single events of RECORDING: each traced call of a guest, each buffer a host served.

    With a recording of the host made at the same time, each buffer names its send. A time line then shows
    both sides on one clock. Names have their units. Times are integers in nanoseconds, in a time line in
    microseconds. What was not measured is empty or null. docs/export.schema.json describes every field. Of
    many VMs (record --all) each has a folder of tables, called after it, where -o is a folder.

    \b
    Examples:
      balloontrace export examples/stock-inflate.bt -o spans.csv
      balloontrace export guest.bt host.bt --format perfetto -o timeline.json
    """
    from balloontrace.analysis.make_report import examine
    from balloontrace.analysis.processes import choose_parts, is_of_many
    from balloontrace.commands.report import given_paths, read_recordings

    # As a path, nothing would be the current folder.
    if not output:
        raise UsageError("-o takes a name; give - for standard output, or . for this folder")
    refuse_own_input(Path(output), given_paths(recording, host_recording))
    sources = read_recordings(recording, host_recording)
    if form.tables is not None and len(sources) == 1 and _is_folder(form, output):
        parts = choose_parts(sources[0], vm) if is_of_many(sources[0]) else ()
        if len(parts) > 1:
            _write_parts(form, parts, Path(output), force=force)
            return
    examined = examine(*sources, vm=vm)
    if form.tables is not None:
        _write_tables(form, form.tables(sources, examined), sources, output, force=force)
    elif form.export is not None:
        write_output(form.export(examined), parse_file_name(output), force=force)
    warn(examined.report.warnings)


def _is_folder(form: Format, output: str) -> bool:
    path = Path(output)
    return output != "-" and (names_folder(output) or path.suffix != form.extension or path.is_dir())


def _write_parts(form: Format, parts: Sequence[Recording], folder: Path, *, force: bool) -> None:
    """A folder for each VM, called after it; none where one is there already, unless with `force`."""
    from balloontrace.analysis.make_report import examine
    from balloontrace.analysis.processes import file_names

    assert form.tables is not None  # its caller has looked
    folders = [folder / name for name in file_names(parts)]
    taken = [each for each in folders if each.exists()]
    if taken and not force:
        raise UsageError(f"{taken[0]} exists already; -f replaces the tables in it")
    _make_folder(folder, form)
    for each, part in zip(folders, parts, strict=True):
        examined = examine(part)
        _write_folder(form, form.tables([part], examined), [part], each, force=force)
        warn(examined.report.warnings)


def _write_tables(
    form: Format, tables: Mapping[str, Pieces], sources: Sequence[Recording], output: str, *, force: bool
) -> None:
    if _is_folder(form, output):
        _write_folder(form, tables, sources, Path(output), force=force)
        return
    if "spans" in tables and "batches" in tables:
        raise UsageError("spans and batches are two tables: give a folder for them with -o")
    write_output(next(iter(tables.values())), Path(output), force=force)


def _write_folder(
    form: Format, tables: Mapping[str, Pieces], sources: Sequence[Recording], folder: Path, *, force: bool
) -> None:
    """Write every table into `folder`, which is made if need be: all of them or, if one is in the way, none.

    With `force` no table of an earlier export stays beside them.
    """
    from balloontrace.analysis.metadata import is_of_host

    files = {f"{name}{form.extension}": pieces for name, pieces in tables.items()}
    for source in sources:
        described = {"metadata": source.metadata, "end": source.end, "damage": list(source.damage)}
        of_host = is_of_host(source) and len(sources) > 1
        name = _HOST_METADATA if of_host else _METADATA
        files[name] = [json.dumps(described, indent=1) + "\n"]
    _make_folder(folder, form)
    write_files({folder / name: pieces for name, pieces in files.items()}, force=force)
    if force:
        for name in {*(f"{table}{form.extension}" for table in _TABLES), *_DESCRIPTIONS} - set(files):
            _remove(folder / name)


def _make_folder(folder: Path, form: Format) -> None:
    if folder.exists() and not folder.is_dir():
        raise UsageError(
            f"{folder} is a file: {form.name.upper()} goes into a folder, "
            f"or into one file named *{form.extension}"
        )
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot make the folder {folder}: {error.strerror}") from error


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise BalloontraceError(f"cannot remove {path}: {error.strerror}") from error
