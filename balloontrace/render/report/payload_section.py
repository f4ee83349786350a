# SPDX-License-Identifier: GPL-2.0-or-later
"""How the patched driver went through its pages, and what the sends of an operation named, as text."""

from __future__ import annotations

from balloontrace.render.blocks import Section, Table, Term, Title
from balloontrace.results.report import BitmapUse, Contiguity, PayloadStatistics, RecordStatistics
from balloontrace.units import NOT_MEASURED, format_bytes, format_count, format_share, format_things


def describe_bitmaps(use: BitmapUse) -> str:
    """One sentence."""
    return (
        f"passes over the list of pages {format_count(use.passes)}; windows {format_count(use.windows)}, of "
        f"{format_things(use.bitmaps, 'bitmap')}; sends in mid-window {format_count(use.mid_window_sends)}; "
        f"{format_bytes(use.bytes_sent)} sent"
    )


def describe_payload(number: int, payload: PayloadStatistics) -> list[Section]:
    """What the sends of an operation named: sums, then runs by their length."""
    distinct, records = payload.distinct, payload.of_records
    sent = f"{format_bytes(payload.bytes_sent)} in {format_things(payload.sends, 'send')}"
    if payload.header_bytes:
        sent += f" and {format_bytes(payload.header_bytes)} of headers"
    rows = [("payload", f"{sent}; {_ratio(payload.bytes_per_page)} B a page (4 B as PFN)")]
    if payload.payloads_whole < payload.sends:
        rows.append(("INCOMPLETE", _incomplete(payload)))
    if records is not None:
        rows += [("records", _records(records)), ("bitmap fill", _fill(records))]
    rows += [("pages named", _pages(payload)), ("PFN span", _span(distinct)), ("contiguity", _runs(distinct))]
    title = f"What operation {number} named ({payload.encoding})"
    return [[Title(title), *(Term(name, text) for name, text in rows)], _run_orders(payload)]


def _records(records: RecordStatistics) -> str:
    words = format_things(records.bitmap_words, "bitmap word")
    runs = format_things(records.plain_runs, "plain run")
    by_words = format_things(records.pages_by_words, "page")
    by_runs = format_count(records.pages_by_runs)
    count = format_count(records.records)
    return f"{count}: {words} naming {by_words}, {runs} naming {by_runs}"


def _fill(records: RecordStatistics) -> str:
    bits = (
        f"{format_things(records.pages_by_words, 'bit')} set of {format_count(records.bits_carried)} carried"
    )
    return f"{format_share(records.bits_set_share)}: {bits}"


def _pages(payload: PayloadStatistics) -> str:
    held = payload.pages_in_balloon_before
    before = "not known how many" if held is None else format_count(held)
    return (
        f"{format_count(payload.pages_named)}: {format_things(payload.distinct.pages, 'different one')}, "
        f"{format_count(payload.pages_repeated)} repeated; {before} in the balloon before"
    )


def _span(distinct: Contiguity) -> str:
    first, last = (
        NOT_MEASURED if pfn is None else str(pfn) for pfn in (distinct.pfn_first, distinct.pfn_last)
    )
    return f"{first} to {last}, {format_share(distinct.density)} of it named"


def _runs(distinct: Contiguity) -> str:
    mean, longest = _ratio(distinct.mean_run_pages), format_count(distinct.longest_run_pages)
    return f"{format_things(distinct.runs, 'run')}, {mean} pages at the mean, {longest} at most"


def _incomplete(payload: PayloadStatistics) -> str:
    parts = (
        ("missing", payload.payloads_missing),
        ("captured in part", payload.payloads_cut),
        ("invalid", payload.payloads_invalid),
    )
    counts = ", ".join(f"{format_count(count)} {what}" for what, count in parts if count)
    refusal = f"; {payload.first_refusal}" if payload.first_refusal else ""
    return f"of {format_things(payload.sends, 'payload')} {counts}{refusal}; what follows is of the rest"


def _run_orders(payload: PayloadStatistics) -> Section:
    """Runs of consecutive pages by length, beside the plain records of that length."""
    records = {
        each.order: each for each in (payload.of_records.plain_run_orders if payload.of_records else ())
    }
    runs = {each.order: each for each in payload.distinct.run_orders}
    pages = payload.distinct.pages
    rows = []
    for order in sorted(runs.keys() | records.keys()):
        run, record = runs.get(order), records.get(order)
        rows.append(
            (
                format_count(1 << order) if order == 0 else f"{format_count(1 << order)} and up",
                format_count(run.runs) if run else "0",
                format_count(run.pages) if run else "0",
                format_share(run.pages / pages if run and pages else 0.0),
                *((format_count(record.runs) if record else "0",) if payload.of_records else ()),
            )
        )
    names = ["run of pages", "runs", "pages", "share", *(["records of 2^n"] if payload.of_records else [])]
    return [Table(names, rows, "r" * len(names))]


def _ratio(value: float | None) -> str:
    return NOT_MEASURED if value is None else f"{value:.3g}" if value < 1000 else format_count(round(value))
