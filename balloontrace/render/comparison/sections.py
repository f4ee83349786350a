# SPDX-License-Identifier: GPL-2.0-or-later
"""A comparison for people: "-" where nothing was measured, `~` where nobody can tell."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from balloontrace.format.stages import find_stage
from balloontrace.render import numbers
from balloontrace.render.blocks import Item, Line, Name, Number, Section, Table, Text, Title, words
from balloontrace.results.comparison import (
    FASTER,
    HINT,
    OOM,
    REPORT,
    SAME,
    SLOWER,
    STATISTICS,
    UNDECIDED,
    WALL,
    Comparison,
    Group,
    LeftOut,
    Method,
    Row,
    RunGroup,
    Side,
)
from balloontrace.units import (
    NOT_MEASURED,
    format_bytes,
    format_count,
    format_duration_ns,
    format_pages_as_bytes,
    format_rate,
    format_share,
    format_things,
)

_WHAT = {
    REPORT: "Page reporting",
    HINT: "Page hinting",
    OOM: "Out of memory",
    STATISTICS: "Statistics queue",
}
_NAME_COLUMNS = 19
_LISTED = 6
_SMALL_P = 0.001
_MOST_DIGITS = 10_000_000
_MOST_DECIMALS = 12
_LONG, _SHORT = 100_000, 0.0005


def describe_comparison(comparison: Comparison) -> list[Section]:
    """All of it; sections with nothing in them are those that do not apply."""
    return [
        [
            _side("BEFORE", comparison.before),
            _side("AFTER", comparison.after),
            *(Line(f"expected difference: {each.text}") for each in comparison.differences if each.expected),
        ],
        [Line(f"WARNING: {warning}") for warning in comparison.warnings],
        *(section for group in comparison.groups for section in _group(group)),
        *(section for runs in comparison.run_groups for section in _runs(runs)),
        [Line(sentence) for sentence in left_out(comparison.left_out)],
        [Line(method(comparison.method))],
    ]


def title(group: Group) -> str:
    """What is compared: `inflate of 7.00 GiB, 10 operations before and 11 after`."""
    before, after = len(group.before), len(group.after)
    return (
        f"{group.kind} of {format_pages_as_bytes(group.pages)}: {format_count(before)} before, "
        f"{format_count(after)} after"
    )


def title_of_runs(group: RunGroup) -> str:
    """What of whole recordings is compared: `Page reporting: 10 recordings before, 11 after`."""
    before, after = format_things(len(group.before), "recording"), format_count(len(group.after))
    return f"{_WHAT[group.what]}: {before} before, {after} after"


def headline(group: Group) -> str:
    """One sentence on the wall time, with its interval, and what that proves."""
    wall = group.wall
    taken = f"AFTER takes {format_ratio(wall.ratio)} times as long"
    if wall.ratio_low is not None and wall.ratio_high is not None:
        taken += f", {format_interval(wall)} at 95 %"
    match wall.verdict:
        case word if word in (FASTER, SLOWER):
            return f"{taken}: {word}"
        case word if word in (UNDECIDED, SAME):
            return f"{taken}: the data cannot tell a difference"
        case _:
            return taken


def describe_side(side: Side) -> Text:
    """What a side's recordings are, what they lost and what they cost, in one paragraph."""
    guests = " of a guest" if len(side.recordings) == 1 else " of guests"
    host = "a host" if len(side.host_recordings) == 1 else "hosts"
    hosts = words("{} and {} of {}", guests, numbers.count(len(side.host_recordings)), host)
    return words(
        "{}{}; {} compared; {}{}lost {} of {}; recording cost {} of BPF, {} of CPU",
        numbers.things(len(side.recordings), "recording"),
        hosts if side.host_recordings else "",
        numbers.things(side.operations, "operation"),
        f"{' and '.join(side.driver_kinds)} driver; " if side.driver_kinds else "",
        f"Linux {' and '.join(side.kernel_releases)}; " if side.kernel_releases else "",
        numbers.count(side.events_lost),
        numbers.things(side.events_seen, "event"),
        numbers.duration(side.bpf_time_ns),
        numbers.duration(side.cpu_ns),
    )


def name_of(row: Row) -> str:
    """A short name for a column; parts are marked by a dash."""
    stage = find_stage(row.name)
    if stage is not None:
        return stage.short_for(row.label, row.part_of)
    if row.part_of is not None:
        return f"- {row.label}"
    return "wall time" if row.name == WALL else row.label


def format_value(value: float | None, unit: str) -> str:
    """A number in the unit it is meant for."""
    match unit:
        case _ if value is None:
            return NOT_MEASURED
        case "ns":
            return format_duration_ns(value)
        case "B":
            return format_bytes(value)
        case "ratio":
            return format_share(value)
        case "ns/GiB":
            return f"{format_duration_ns(value)}/GiB"
        case "B/s":
            return format_rate(value)
        case "B/min":
            return f"{format_bytes(value)}/min"
        case _ if (float(value).is_integer() or value >= 999.5) and value < _MOST_DIGITS:
            return format_count(round(value))
        case _:
            return _digits(value)


def format_ratio(ratio: float | None) -> str:
    """Three significant digits: `0.143`, `1.02`, `12.4`."""
    return NOT_MEASURED if ratio is None else _digits(ratio)


def format_interval(row: Row) -> str:
    """`0.140 to 0.147`."""
    if row.ratio_low is None or row.ratio_high is None:
        return NOT_MEASURED
    return f"{_digits_of_end(row, row.ratio_low)} to {_digits_of_end(row, row.ratio_high)}"


def format_p_value(p_value: float | None) -> str:
    """Three decimals, and `<0.001`."""
    if p_value is None:
        return NOT_MEASURED
    return f"<{_SMALL_P}" if p_value < _SMALL_P else f"{p_value:.3f}"


def is_measured(row: Row) -> bool:
    """Whether there is anything to show of a row."""
    return row.before.n > 0 or row.after.n > 0


def left_out(entries: Sequence[LeftOut]) -> Iterator[str]:
    """Sentences on what was left out, the first few of each side and reason."""
    for (side, reason), same in _by_reason(entries).items():
        count = sum(len(each.operations) for each in same)
        listed = ", ".join(
            f"{each.recording} ({', '.join(_named_operations(each)[:_LISTED])}"
            f"{', ...' if len(each.operations) > _LISTED else ''})"
            for each in same[:_LISTED]
        )
        more = f" and {format_count(len(same) - _LISTED)} recordings more" if len(same) > _LISTED else ""
        yield f"left out of {side}: {format_things(count, 'operation')}: {reason}: {listed}{more}"


def _named_operations(entry: LeftOut) -> list[str]:
    """`inflate 1`, `deflate 2`."""
    kinds = entry.kinds or ("operation",) * len(entry.operations)
    return [f"{kind} {number}" for kind, number in zip(kinds, entry.operations, strict=True)]


def method(used: Method) -> str:
    """How intervals and verdicts came about."""
    return (
        "Values are medians, ratios are of medians or of pairs, after to before; "
        f"{used.confidence * 100:.0f} % intervals hold {used.interval}. Tests: {used.test}. "
        f"p and verdicts are adjusted: {used.correction}. {UNDECIDED}: the data cannot tell."
    )


def _side(name: str, side: Side) -> Line:
    return Line(words("{}: {}: {}", name, side.given, describe_side(side)))


def _group(group: Group) -> list[Section]:
    shown = title(group)
    return [
        [Title(f"{shown[0].upper()}{shown[1:]}. {headline(group)}."), *map(Item, group.notes)],
        _rows("time", group.times, group),
        _rows("count", [row for row in group.counts if is_measured(row)], group),
    ]


def _runs(group: RunGroup) -> list[Section]:
    return [
        [Title(f"{title_of_runs(group)}."), *map(Item, group.notes)],
        _rows("time", group.times, group),
        _rows("count", group.counts, group),
    ]


def _rows(name: str, rows: Sequence[Row], group: Group | RunGroup) -> Section:
    return [row_table(name, rows, group)] if rows else []


def row_table(name: str, rows: Sequence[Row], group: Group | RunGroup, *, whole: bool = False) -> Table:
    """Rows of a group; `whole` has the lowest and the highest value of each side too, for a page."""
    names = [name, "before", "after", "ratio", "95 % interval", "p", "verdict"]
    if whole:
        names += ["before, from", "to", "after, from", "to"]
    cells = [
        (_name(row, group, whole=whole), *_cells(row), *(_extremes(row) if whole else ())) for row in rows
    ]
    return Table(names, cells, "lrrrrrl" + "r" * (len(names) - 7), {0: _NAME_COLUMNS})


def _name(row: Row, group: Group | RunGroup, *, whole: bool) -> Name:
    if not whole:
        return Name(name_of(row), _fewer_runs(row, group))
    name, is_part = name_of(row).removeprefix("- "), row.part_of is not None
    return Name(name, _fewer_runs(row, group), key=row.name, is_part=is_part)


def _cells(row: Row) -> tuple[Text, ...]:
    return (
        value_of(row.before.median, row.unit),
        value_of(row.after.median, row.unit),
        ratio_of(row.ratio),
        interval_of(row),
        Number(format_p_value(row.p_adjusted), row.p_adjusted),
        row.verdict or "",
    )


def _extremes(row: Row) -> tuple[Text, ...]:
    return tuple(
        value_of(value, row.unit)
        for side in (row.before, row.after)
        for value in (side.minimum, side.maximum)
    )


def value_of(value: float | None, unit: str) -> Number:
    """A number of a row, with what it is exactly."""
    return Number(format_value(value, unit), value, unit)


def ratio_of(ratio: float | None) -> Number:
    """After to before."""
    return Number(format_ratio(ratio), ratio)


def interval_of(row: Row) -> Text:
    """The 95 % interval of a row's ratio, where there is one."""
    if row.ratio_low is None or row.ratio_high is None:
        return Number(NOT_MEASURED, None)
    low, high = (Number(_digits_of_end(row, end), end) for end in (row.ratio_low, row.ratio_high))
    return words("{} to {}", low, high)


def _fewer_runs(row: Row, group: Group | RunGroup) -> str:
    """Said of a row for which not every operation has a value, but some on both sides."""
    sizes = (row.before.n, row.after.n)
    whole = (len(group.before), len(group.after))
    return "" if sizes == whole or 0 in sizes else f" ({row.before.n}, {row.after.n})"


def _digits_of_end(row: Row, value: float) -> str:
    """An end of an interval, with enough digits to see that it is not 1 where the verdict is a difference."""
    shown = _digits(value)
    if row.verdict in (None, UNDECIDED, SAME) or value == 1 or shown != _digits(1.0):
        return shown
    longer = (f"{value:.{decimals}f}" for decimals in range(3, _MOST_DECIMALS))
    return next((text for text in longer if float(text) != 1), repr(value))


def _digits(value: float) -> str:
    """Three significant digits, three decimals at most; with an exponent what would be 0.000 or long."""
    if value >= _LONG or 0 < value < _SHORT:
        return f"{value:.1e}"
    if value >= 999.5:
        return format_count(round(value))
    return f"{value:.{0 if value >= 99.95 else 1 if value >= 9.995 else 2 if value >= 0.9995 else 3}f}"


def _by_reason(entries: Iterable[LeftOut]) -> dict[tuple[str, str], list[LeftOut]]:
    found: dict[tuple[str, str], list[LeftOut]] = {}
    for each in entries:
        found.setdefault((each.side, each.reason), []).append(each)
    return found
