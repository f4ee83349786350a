# SPDX-License-Identifier: GPL-2.0-or-later
"""Two sets of analysed recordings into a comparison: what changed, and whether the data can tell.

Operations of one kind and size are compared with each other (`group`), each being one replicate and
counting once. What is left out, or speaks against the comparison, is reported.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from balloontrace.compare.compare_group import compare_group
from balloontrace.compare.compare_runs import compare_runs, has_both
from balloontrace.compare.condition_differences import find_differences, find_group_differences, lost_events
from balloontrace.compare.copied_runs import tell_copies
from balloontrace.compare.provenance import tell_differences
from balloontrace.compare.recordings import Recordings
from balloontrace.compare.replicates import Found, Refused, find_replicates
from balloontrace.compare.significance import LEVEL
from balloontrace.errors import BalloontraceError
from balloontrace.format.vocabulary import Kind
from balloontrace.results.comparison import (
    COMPARISON_VERSION,
    OF_RECORDINGS,
    Comparison,
    Difference,
    LeftOut,
    Method,
    Side,
)
from balloontrace.results.report import Report
from balloontrace.units import format_count, format_pages_as_bytes

METHOD = Method(
    confidence=1 - LEVEL,
    interval="all ratios that no test rejects, and 1 where the verdict is no difference. Of more than a "
    "million pairs of runs the normal approximation is taken",
    test="runs made in turn are compared in pairs of neighbours, by Wilcoxon's signed ranks (Student's t for "
    "fewer than 8 pairs). Others are compared by exact Mann-Whitney and Brunner-Munzel, of fewer than 10 on "
    "a side also by Welch's t of logarithms. All are two-sided, and the largest p value counts. Where a side "
    "was made earlier and the machine changed, the difference must remain without that drift",
    correction="not for the wall time; by Holm over its stages, at 5 % if it changed, else at what its test "
    "leaves of 5 %. Counts are adjusted by Holm, and so are times of what is no inflate or deflate. Parts of "
    "rows are not adjusted",
)

_LISTED = 4
_NONE_LIKE_IT = "the other side has none of its kind and size"


class ComparisonError(BalloontraceError):
    """Two sets of recordings hold nothing that could be compared."""


def compare(
    before: Recordings,
    after: Recordings,
    kinds: Sequence[Kind] = tuple(Kind),
    others: Sequence[str] = OF_RECORDINGS,
) -> Comparison:
    """Compare all operations of the same kind and size, only those of `kinds`, and what `others` there are.

    ComparisonError when there is nothing, or when hosts were recorded on one side only.
    """
    sides = (before, after)
    _require_same_sides(before, after)
    found = [_replicates(side, kinds) for side in sides]
    once, copies = _each_once(sides, found)
    common = _common(once)
    judged = bool(common)
    if not judged:
        once, copies = _each_once(sides, found, keep_shared=True)
        common = _common(once)
    runs = compare_runs(before.reports, after.reports, others)
    if not common and not any(map(has_both, runs)):
        raise ComparisonError(_nothing_common(sides, once, kinds))
    chosen = [
        [[each for each in side.counting if (each.kind, each.pages) == key] for side in once]
        for key in common
    ]
    differences = find_differences(before.reports, after.reports)
    differences += tell_differences(before.provenance, after.provenance)
    for (kind, pages), each in zip(common, chosen, strict=True):
        differences += find_group_differences(f"{kind} of {format_pages_as_bytes(pages)}", *each)
    return Comparison(
        comparison_version=COMPARISON_VERSION,
        before=_describe(before, common, once[0]),
        after=_describe(after, common, once[1]),
        groups=tuple(
            compare_group(*key, *each, judged=judged) for key, each in zip(common, chosen, strict=True)
        ),
        differences=tuple(differences),
        left_out=tuple(_left_out("before", once[0], common)) + tuple(_left_out("after", once[1], common)),
        warnings=(*copies, *_no_group(sides, once, kinds, common), *_warnings(sides, differences)),
        method=METHOD,
        run_groups=runs,
    )


@dataclass(frozen=True, slots=True)
class _Replicates:
    """The operations of one side: those that count, and the others with the reason."""

    counting: tuple[Found, ...]
    others: tuple[Refused, ...]


def _replicates(side: Recordings, kinds: Sequence[Kind]) -> _Replicates:
    counting: list[Found] = []
    others: list[Refused] = []
    for report in side.reports:
        found, refused = find_replicates(report)
        counting += [each for each in found if each.kind in kinds]
        others += [each for each in refused if each.kind in kinds]
    return _Replicates(tuple(counting), tuple(others))


def _each_once(
    sides: tuple[Recordings, Recordings], found: Sequence[_Replicates], *, keep_shared: bool = False
) -> tuple[list[_Replicates], tuple[str, ...]]:
    """Both sides without copies, and the sentences on those."""
    names = (sides[0].given, sides[1].given)
    told = tell_copies(found[0].counting, found[1].counting, names, keep_shared=keep_shared)
    once = [
        _Replicates(one.counting, (*one.copies, *each.others)) for one, each in zip(told, found, strict=True)
    ]
    return once, (*told[0].warnings, *told[1].warnings)


def _common(found: Sequence[_Replicates]) -> list[tuple[Kind, int]]:
    """The kinds and sizes that both sides have."""
    after = set(_keys(found[1].counting))
    return [key for key in _keys(found[0].counting) if key in after]


def _keys(found: Iterable[Found]) -> list[tuple[Kind, int]]:
    """Kinds and sizes, inflates first and small ones first."""
    order = list(Kind)
    return sorted({(each.kind, each.pages) for each in found}, key=lambda key: (order.index(key[0]), key[1]))


def _require_same_sides(before: Recordings, after: Recordings) -> None:
    """ComparisonError unless hosts were recorded everywhere, or nowhere."""
    hosts = [[report.host is not None for report in side.reports] for side in (before, after)]
    if len({host for side in hosts for host in side}) < 2:
        return
    for side, flags in zip((before, after), hosts, strict=True):
        if len(set(flags)) > 1:
            alone = next(report.header.recording for report in side.reports if report.host is None)
            raise ComparisonError(
                f"{side.given} has no host's recording for {alone}, and one for others; "
                "--guest-only compares the guests' alone"
            )
    names = ("of the guest alone", "of guest and host")
    words = [names[flags[0]] for flags in hosts]
    raise ComparisonError(
        f"{before.given} is {words[0]} and {after.given} is {words[1]}; "
        "--guest-only compares the guests' alone"
    )


def _no_group(
    sides: tuple[Recordings, Recordings],
    found: Sequence[_Replicates],
    kinds: Sequence[Kind],
    common: Sequence[tuple[Kind, int]],
) -> Iterator[str]:
    """Why inflates and deflates are not compared where there are some."""
    if not common and any(each.counting or each.others for each in found):
        yield _nothing_common(sides, found, kinds)


def _nothing_common(
    sides: tuple[Recordings, Recordings], found: Sequence[_Replicates], kinds: Sequence[Kind]
) -> str:
    """Why no operation has its like on the other side; without `kinds`, none was looked for."""
    if not kinds:
        return f"{sides[0].given} and {sides[1].given} do not both have what is to be compared"
    for side, each in zip(sides, found, strict=True):
        if not each.counting:
            wanted = f"complete {kinds[0]}" if len(kinds) == 1 else "complete operation"
            first = each.others[0] if each.others else None
            reason = f": {first.reason} ({first.recording})" if first else ""
            return f"{side.given} holds no {wanted} to compare{reason}"
    held = [_list_sizes([*_keys(each.counting)]) for each in found]
    return (
        f"no operation of the same kind and size is on both sides: {sides[0].given} holds {held[0]}; "
        f"{sides[1].given} holds {held[1]}"
    )


def _list_sizes(keys: Sequence[tuple[Kind, int]]) -> str:
    """Kinds and sizes, some of many."""
    named = [f"{kind}s of {format_pages_as_bytes(pages)}" for kind, pages in keys[:_LISTED]]
    more = f" and {len(keys) - _LISTED} more" if len(keys) > _LISTED else ""
    return ", ".join(named) + more


def _describe(side: Recordings, common: Sequence[tuple[str, int]], found: _Replicates) -> Side:
    guests = [report.header for report in side.reports]
    costs = [each.own_cost for report in side.reports for each in (report, report.host) if each is not None]
    return Side(
        given=side.given,
        recordings=tuple(header.recording for header in guests),
        host_recordings=tuple(
            dict.fromkeys(report.host.header.recording for report in side.reports if report.host)
        ),
        labels=_different(header.label for header in guests),
        driver_kinds=_different(header.driver_kind for header in guests),
        kernel_releases=_different(header.machine.kernel_release for header in guests),
        operations=sum((each.kind, each.pages) in common for each in found.counting),
        events_lost=lost_events(side.reports),
        events_seen=_sum(report.events_seen for report in side.reports),
        bpf_time_ns=_sum(None if cost is None else cost.bpf_time_ns for cost in costs),
        cpu_ns=_sum(None if cost is None else cost.cpu_ns for cost in costs),
    )


def _different(values: Iterable[str | None]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(value for value in values if value is not None))


def _sum(values: Iterable[int | None]) -> int | None:
    listed = list(values)
    known = [value for value in listed if value is not None]
    return sum(known) if known and len(known) == len(listed) else None


def _left_out(name: str, found: _Replicates, common: Sequence[tuple[str, int]]) -> Iterator[LeftOut]:
    """The operations of a side that were not compared, by recording and reason."""
    others = [(each.recording, each.operation, each.kind, each.reason) for each in found.others]
    others += [
        (each.replicate.recording, each.replicate.operation, each.kind, _NONE_LIKE_IT)
        for each in found.counting
        if (each.kind, each.pages) not in common
    ]
    reasons: dict[tuple[str, str], list[tuple[int, str]]] = {}
    for recording, operation, kind, reason in others:
        reasons.setdefault((recording, reason), []).append((operation, kind))
    for (recording, reason), operations in reasons.items():
        numbers, kinds = zip(*operations, strict=True)
        yield LeftOut(name, recording, numbers, reason, kinds)


def _warnings(sides: Sequence[Recordings], differences: Sequence[Difference]) -> Iterator[str]:
    """What speaks against the comparison: unexpected differences, then what is wrong with recordings."""
    yield from (each.text for each in differences if not each.expected)
    found: dict[str, list[str]] = {}
    for report in (report for side in sides for report in side.reports):
        for warning in (*report.warnings, *_disagreements(report)):
            found.setdefault(warning, []).append(report.header.recording)
    for warning, recordings in found.items():
        more = f" and {format_count(len(recordings) - 1)} more" if len(recordings) > 1 else ""
        yield f"{recordings[0]}{more}: {warning}"


def _disagreements(report: Report) -> Iterator[str]:
    """Counts that an independent source contradicts."""
    for check in report.checks:
        if check.agrees is False:
            counts = f"{format_count(check.spans)} in spans, {format_count(check.independent)}"
            yield f"{check.name} is counted differently: {counts} by {check.source}"
