# SPDX-License-Identifier: GPL-2.0-or-later
"""`balloontrace report`: where the time of each inflate and deflate in a recording went."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from balloontrace.commands.formats import Format, format_option
from balloontrace.console.option_types import RECORDING, output_options, recorded_vm_option
from balloontrace.console.output_file import refuse_own_input, write_output
from balloontrace.console.stderr import note, verbose_option, warn
from balloontrace.errors import DataLostError, UsageError
from balloontrace.format.vocabulary import Side
from balloontrace.units import format_things

if TYPE_CHECKING:
    from balloontrace.analysis.make_report import Examined
    from balloontrace.commands.formats import Pieces
    from balloontrace.format.recording import Recording
    from balloontrace.results.host_side import HostSide
    from balloontrace.results.report import Report

_SEND_PAGES = 256  # VIRTIO_BALLOON_ARRAY_PFNS_MAX, as `unseen` has it for the recorder


@dataclass(frozen=True, slots=True)
class MaxLost:
    """How much may be lost: a number of events, or a share of all calls seen.

    A host that counted no calls has buffers in their place.
    """

    events: int | None = None
    share: float | None = None

    def exceeded_by(self, lost: int, seen: int) -> bool:
        """Whether `lost` events, of `seen` calls, are too many."""
        if self.share is not None:
            return lost > self.share * seen
        return lost > (self.events or 0)

    def exceeded_by_pages(self, unseen: int, moved: int) -> bool:
        """Whether `unseen` pages, of all that `moved`, are too many. The stock driver sends 256 at most."""
        if self.share is not None:
            return unseen > self.share * moved
        return -(-unseen // _SEND_PAGES) > (self.events or 0)


def parse_max_lost(text: str) -> MaxLost:
    """`17` or `0.1%`. UsageError for anything else."""
    number = text.removesuffix("%").strip()
    try:
        if text.endswith("%"):
            share = float(number) / 100
            if 0 <= share <= 1:
                return MaxLost(share=share)
        elif int(number) >= 0:
            return MaxLost(events=int(number))
    except ValueError:
        pass
    raise UsageError(f"--max-lost takes a number of events or a percentage such as 0.1%, not {text!r}")


@click.command("report", short_help="Show where the time of each inflate and deflate went.")
@click.argument("recording", type=RECORDING)
@click.argument("host_recording", type=RECORDING, required=False)
@format_option("report", default="table")
@output_options
@click.option(
    "--max-lost",
    metavar="N|PCT",
    help="Exit with 5 if more events, or a larger share of them, were lost while recording. Pages that no "
    "probe saw count as one event for each 256, and as a share of all pages that moved.",
)
@recorded_vm_option
@verbose_option
def report(
    recording: Path,
    host_recording: Path | None,
    form: Format,
    output: Path | None,
    *,
    force: bool,
    max_lost: str | None,
    vm: str | None,
) -> None:
    r"""Show where the time of each inflate and deflate in RECORDING went (- reads it from stdin).

    With a recording of the host made at the same time, b, c and d are shown apart. Of many VMs (record --all)
    that one is taken which served the guest. Without a guest, a table shows each; other formats take --vm.

    \b
    Examples:
      balloontrace report examples/stock-inflate.bt
      balloontrace report guest.bt host.bt
      balloontrace report examples/bitmap-inflate.bt --format html -o page.html
    """
    from balloontrace.analysis.make_report import examine

    assert form.report is not None  # it was offered
    allowed = None if max_lost is None else parse_max_lost(max_lost)
    refuse_own_input(output, given_paths(recording, host_recording))
    recordings = read_recordings(recording, host_recording)
    if form.for_people and len(recordings) == 1:
        reports = _examine_each(recordings[0], vm)
    else:
        reports = [examine(*recordings, vm=vm)]
    pieces = chain.from_iterable(form.report(each) for each in reports)
    write_output(cast("Pieces", pieces), output, force=force, for_people=form.for_people)
    warn(dict.fromkeys(chain.from_iterable(each.report.warnings for each in reports)))
    for each in reports:
        _hold_to(allowed, each.report)


def _examine_each(recording: Recording, vm: str | None) -> list[Examined]:
    """The one recording, or each of its VMs that served anything."""
    from balloontrace.analysis.make_report import examine
    from balloontrace.analysis.processes import choose_parts, is_of_many, list_vms

    if not is_of_many(recording):
        return [examine(recording, vm=vm)]
    parts = choose_parts(recording, vm)
    serving = [part for part in parts if part.batches or part.counters]
    idle = [part for part in parts if part not in serving]
    if serving and idle:
        warn([f"{format_things(len(idle), 'VM')} served nothing, and is not shown: {list_vms(idle)}"])
    return [examine(part) for part in serving or parts]


def given_paths(*paths: Path | None) -> list[Path]:
    """Those that were given."""
    return [path for path in paths if path is not None]


def read_recordings(*paths: Path | None) -> list[Recording]:
    """Read the recordings there are, `-` being standard input. UsageError, and errors as `read_recording`."""
    from balloontrace.format.recording import read_recording

    given = given_paths(*paths)
    if sum(str(path) == "-" for path in given) > 1:
        raise UsageError("only one of the recordings can come from standard input")
    sources = [read_recording(sys.stdin.buffer if str(path) == "-" else path) for path in given]
    note(lambda: chain.from_iterable(map(describe_source, given, sources)))
    return sources


def describe_source(path: Path, source: Recording) -> Iterator[str]:
    """What was found in a recording, before it is understood: for `-v`."""
    from balloontrace.analysis.metadata import text

    side, written_by = (text(source.metadata, key) for key in ("side", "tool_version"))
    major, minor = source.version
    from balloontrace.units import name_of_many

    pieces = {"spans": source.spans, "payloads": source.payloads, "batches": source.batches}
    counts = ", ".join(
        f"{len(found)} {name_of_many(len(found), 'piece')} of {name}"
        for name, found in pieces.items()
        if found
    )
    yield f"{path}: {side or Side.GUEST}, format {major}.{minor}, written by {written_by or 'unknown'}"
    yield f"{path}: {counts or 'no events'}; {'whole' if source.complete else 'cut off or damaged'}"


def _hold_to(allowed: MaxLost | None, result: Report) -> None:
    """Raise DataLostError when more was lost than the user allows, or it is not known how much was.

    A recording that was cut off does not know what it lost last.
    """
    if allowed is None:
        return
    from balloontrace.units import name_of_many

    host, of_host = result.host, result.header.is_of_host
    # A host's recording alone is its own report.
    sides: list[Report | HostSide] = [result] if host is None or of_host else [result, host]
    losses = [side.events_lost for side in sides if side.events_lost is not None]
    if len(losses) < len(sides) or any(side.ended is None for side in sides):
        whose = "the recording does" if len(sides) == 1 else "one of the recordings does"
        raise DataLostError(f"{whose} not say how much was lost, so --max-lost cannot be checked")
    lost, missing = sum(losses), result.spans_missing or 0
    seen = (0 if of_host else result.events_seen or 0) + (_seen_by(host) if host else 0)
    if allowed.exceeded_by(lost + missing, seen):
        gone = f" and {missing} {'is' if missing == 1 else 'are'} missing from the file" if missing else ""
        events = f"{lost} {name_of_many(lost, 'event was', 'events were')}"
        raise DataLostError(f"{events} lost while recording{gone}, more than --max-lost allows")
    unseen = result.pages_unseen or 0
    if allowed.exceeded_by_pages(unseen, result.pages_moved or 0):
        raise DataLostError(
            f"{unseen} pages moved that the recording does not have, more than --max-lost allows"
        )


def _seen_by(host: HostSide) -> int:
    """Calls of a host, lost ones too; where they were sampled, or their sums are missing, its buffers."""
    if host.calls:
        return sum(calls.calls for calls in host.calls)
    made = next((loss.entries for loss in host.losses if loss.function == "batches"), None)
    return made or host.batches + (host.events_lost or 0)
