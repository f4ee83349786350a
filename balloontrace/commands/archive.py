# SPDX-License-Identifier: GPL-2.0-or-later
"""`balloontrace archive`: recordings into a dataset of Parquet files, each once."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

import click

from balloontrace.console.open_files import is_open_for_writing
from balloontrace.console.option_types import RECORDING
from balloontrace.console.stderr import say, warn
from balloontrace.errors import BalloontraceError, UsageError
from balloontrace.untrusted import printable


@click.command("archive", short_help="Bring recordings into a dataset that fleet asks questions of.")
@click.argument("recordings", type=RECORDING, nargs=-1)
@click.option("--to", "dataset", metavar="DATASET", required=True, help="A folder, or an object store's URL.")
@click.option("--host", metavar="NAME", help="Where guests ran whose host was not recorded.")
@click.option(
    "--keep-damaged", is_flag=True, help="Archive damaged recordings too, as far as they are whole."
)
@click.option(
    "--remove",
    is_flag=True,
    help="Remove recordings that are in DATASET then, but for those that are still being written. Of pieces "
    "of both sides the last ones stay.",
)
@click.option("--merge", is_flag=True, help="Afterwards, make one batch of each day and host.")
def archive(
    recordings: tuple[Path, ...],
    dataset: str,
    host: str | None,
    *,
    keep_damaged: bool,
    remove: bool,
    merge: bool,
) -> None:
    r"""Bring RECORDINGS, and all that are below folders, into DATASET as Parquet files.

    A guest's recording and its host's are matched where both are given. What the dataset has already is left
    alone, so this may be repeated, also by several at once or after one was killed. A damaged recording is
    named and left out, and so is one with the id of another one. The others are archived, and the exit
    status is 1.

    \b
    Examples:
      balloontrace archive examples --to fleet
      balloontrace archive guest.bt host.bt --to s3://bucket/fleet
      balloontrace archive --merge --to fleet
    """
    from balloontrace.archive.archive_recordings import archive as archive_recordings
    from balloontrace.archive.merge_batches import merge as merge_batches
    from balloontrace.archive.storage import open_storage
    from balloontrace.units import format_count, format_things

    if not recordings and not merge:
        raise UsageError("give recordings to archive, or --merge")
    storage = open_storage(dataset)
    found = archive_recordings(recordings, storage, host=host, keep_damaged=keep_damaged)
    warn(found.refused)
    if recordings:
        matched = f", {format_count(found.matched)} of them with their host's" if found.matched else ""
        known = f"; {format_things(found.known, 'is', 'are')} there already" if found.known else ""
        say(f"balloontrace: {format_things(found.written, 'recording')} archived{matched}{known}\n")
    if remove:
        _remove([path for path in found.taken if path not in found.awaited], found.unended)
    if merge:
        before, after = merge_batches(storage)
        if not before:
            raise UsageError(
                f"{printable(dataset)} holds no archived recordings, so there is nothing to merge"
            )
        say(f"balloontrace: {format_things(before, 'batch', 'batches')} merged into {format_count(after)}\n")
    if found.refused:
        raise BalloontraceError(
            f"{format_things(len(found.refused), 'recording was', 'recordings were')} not archived; "
            "--keep-damaged takes what is whole of a damaged one"
        )


def _remove(paths: Iterable[Path], unended: Collection[Path]) -> None:
    """Remove files of recordings; another one may have done so. BalloontraceError where that is refused.

    One of `unended` stays unless it is known that nobody writes to it.
    """
    for path in paths:
        try:
            if path not in unended or is_open_for_writing(path) is False:
                path.unlink()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise BalloontraceError(f"cannot remove {printable(str(path))}: {error.strerror}") from error
