# SPDX-License-Identifier: GPL-2.0-or-later
"""`balloontrace compare`: what changed between two sets of recordings, and whether the data can tell."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from balloontrace.commands.formats import Format, format_option
from balloontrace.console.option_types import complete_recordings, output_options
from balloontrace.console.output_file import refuse_own_input, write_output
from balloontrace.console.stderr import warn
from balloontrace.errors import BalloontraceError, RegressionError, UsageError
from balloontrace.format.vocabulary import Kind
from balloontrace.results.comparison import OF_RECORDINGS

if TYPE_CHECKING:
    from balloontrace.results.comparison import Comparison


@click.command(
    "compare",
    short_help="Say what changed from one set of recordings to another, and whether the data can tell.",
)
@click.argument("before", shell_complete=complete_recordings)
@click.argument("after", shell_complete=complete_recordings)
@click.option(
    "--kind",
    type=click.Choice([*map(str, Kind), *OF_RECORDINGS]),
    help="Compare only these.  [default: all]",
)
@click.option("--guest-only", is_flag=True, help="Ignore all recordings of hosts.")
@click.option(
    "--fail-on-regression",
    "allowed",
    metavar="PCT",
    help="Exit with 6 if AFTER is slower by more than this, for any kind and size: if the whole 95 % "
    "interval of the ratio of wall times is above 1 + PCT/100. Exit with 1 if there is no interval.",
)
@format_option("compare", default="table")
@output_options
def compare(
    before: str,
    after: str,
    kind: str | None,
    allowed: str | None,
    form: Format,
    output: Path | None,
    *,
    guest_only: bool,
    force: bool,
) -> None:
    """Show what changed from BEFORE to AFTER, in which stage, and whether the data can tell.

    Each is a recording (- reads it from stdin), a guest's and its host's as GUEST,HOST, or a folder of
    recordings. Operations of the same kind and size are compared; each complete one is a run. Of page
    reporting, hinting, out of memory and the statistics queue a recording is a run. An interval needs
    at least 4 runs on each side, a verdict 5; 10 are good. Make them in turn (before, after, after,
    before): neighbours are then compared in pairs, and a drift of the machine cancels.

    \b
    Examples:
      balloontrace compare examples/before examples/after
      balloontrace compare guest-1.bt,host-1.bt guest-2.bt,host-2.bt
      balloontrace compare stock/ patched/ --fail-on-regression 5
      balloontrace compare stock/ patched/ --format html -o compare.html
    """  # noqa: D301 - click looks for the character, not for a backslash
    assert form.compare is not None  # it was offered
    percent = None if allowed is None else parse_percent(allowed)
    if before == after == "-":
        raise UsageError("only one of the recordings can come from standard input")
    from balloontrace.compare.inputs import find_paths

    refuse_own_input(output, [path for given in (before, after) for path in find_paths(given)])
    result = _load(before, after, kind, guest_only=guest_only)
    write_output(form.compare(result), output, force=force, for_people=form.for_people)
    warn(result.warnings)
    if percent is not None:
        hold_to(percent, result)


def parse_percent(text: str) -> float:
    """`5`, `2.5` or `5%`. UsageError for anything else, and for less than nothing."""
    try:
        percent = float(text.removesuffix("%"))
    except ValueError:
        percent = math.nan
    if not 0 <= percent < math.inf:
        raise UsageError(f"--fail-on-regression takes a percentage such as 5, not {text!r}")
    return percent


def hold_to(percent: float, comparison: Comparison) -> None:
    """RegressionError when wall time grew by more, as far as the data can tell; others if they cannot tell.

    What is looked at is the low end of the 95 % interval: the chance of failing for nothing is 2.5 % for each
    kind and size where nothing changed and `percent` is 0, and smaller for more. BalloontraceError where
    there is no interval, since passing would say what was not measured. The medians can lie below
    the interval, and must have grown by more as well.
    """
    if not comparison.groups:
        raise BalloontraceError(
            "--fail-on-regression cannot be checked: no inflate or deflate of the same size is on both sides"
        )
    unknown = []
    for group in comparison.groups:
        ratio, low = group.wall.ratio, group.wall.ratio_low
        if ratio is None or low is None:
            unknown.append(group)
        elif min(ratio, low) > 1 + percent / 100:
            slower = (min(ratio, low) - 1) * 100
            raise RegressionError(
                f"{group.kind} is slower by {slower:.1f} % at least, more than --fail-on-regression allows"
            )
    if unknown:
        runs = f"{len(unknown[0].before)} {unknown[0].kind} before and {len(unknown[0].after)} after"
        raise BalloontraceError(
            f"--fail-on-regression cannot be checked: {runs} give no interval; take 4 of each, or more"
        )


def _load(before: str, after: str, kind: str | None, *, guest_only: bool) -> Comparison:
    from balloontrace.compare.inputs import read_side
    from balloontrace.compare.make_comparison import compare as compare_recordings

    first, second = (read_side(given, sys.stdin.buffer, guest_only=guest_only) for given in (before, after))
    if kind is None:
        return compare_recordings(first, second)
    kinds = tuple(each for each in Kind if each == kind)
    return compare_recordings(first, second, kinds, () if kinds else (kind,))
