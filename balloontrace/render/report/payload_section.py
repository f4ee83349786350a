# SPDX-License-Identifier: GPL-2.0-or-later
"""How the patched driver went through its pages, and what the sends of an operation named, as text."""

from __future__ import annotations

from collections.abc import Iterator

from balloontrace.render import numbers
from balloontrace.render.blocks import Number, Section, Table, Term, Text, Title, words
from balloontrace.results.operation import BitmapUse
from balloontrace.results.payload import Contiguity, PayloadStatistics, RecordStatistics
from balloontrace.units import NOT_MEASURED, format_count


def describe_bitmaps(use: BitmapUse) -> Text:
    """One sentence."""
    return words(
        "passes over the list of pages {}; windows {}, of {}; sends in mid-window {}; {} sent",
        numbers.count(use.passes),
        numbers.count(use.windows),
        numbers.things(use.bitmaps, "bitmap"),
        numbers.count(use.mid_window_sends),
        numbers.size(use.bytes_sent),
    )


def describe_payload(number: int, payload: PayloadStatistics) -> list[Section]:
    """What the sends of an operation named: sums, then runs by their length."""
    title = f"What operation {number} named ({payload.encoding})"
    return [[Title(title), *_terms(payload)], [_run_orders(payload)]]


def _terms(payload: PayloadStatistics) -> Iterator[Term]:
    yield Term("payload", _sent(payload))
    if payload.payloads_whole < payload.sends:
        yield Term("INCOMPLETE", _incomplete(payload))
    if payload.of_records is not None:
        yield Term("records", _records(payload.of_records))
        yield Term("bitmap fill", _fill(payload.of_records))
    yield Term("pages named", _pages(payload))
    yield Term("PFN span", _span(payload.distinct))
    yield Term("contiguity", _runs(payload.distinct))


def _sent(payload: PayloadStatistics) -> Text:
    headers = words(" and {} of headers", numbers.size(payload.header_bytes)) if payload.header_bytes else ""
    return words(
        "{} in {}{}; {} B a page (4 B as PFN)",
        numbers.size(payload.bytes_sent),
        numbers.things(payload.sends, "send"),
        headers,
        numbers.ratio(payload.bytes_per_page),
    )


def _records(records: RecordStatistics) -> Text:
    return words(
        "{}: {} naming {}, {} naming {}",
        numbers.count(records.records),
        numbers.things(records.bitmap_words, "bitmap word"),
        numbers.things(records.pages_by_words, "page"),
        numbers.things(records.plain_runs, "plain run"),
        numbers.count(records.pages_by_runs),
    )


def _fill(records: RecordStatistics) -> Text:
    return words(
        "{}: {} set of {} carried",
        numbers.share(records.bits_set_share),
        numbers.things(records.pages_by_words, "bit"),
        numbers.count(records.bits_carried),
    )


def _pages(payload: PayloadStatistics) -> Text:
    held = payload.pages_in_balloon_before
    return words(
        "{}: {}, {} repeated; {} in the balloon before",
        numbers.count(payload.pages_named),
        numbers.things(payload.distinct.pages, "different one"),
        numbers.count(payload.pages_repeated),
        "not known how many" if held is None else numbers.count(held),
    )


def _span(distinct: Contiguity) -> Text:
    first, last = (
        Number(NOT_MEASURED if pfn is None else str(pfn), pfn)
        for pfn in (distinct.pfn_first, distinct.pfn_last)
    )
    return words("{} to {}, {} of it named", first, last, numbers.share(distinct.density))


def _runs(distinct: Contiguity) -> Text:
    return words(
        "{}, {} pages at the mean, {} at most",
        numbers.things(distinct.runs, "run"),
        numbers.ratio(distinct.mean_run_pages),
        numbers.count(distinct.longest_run_pages),
    )


def _incomplete(payload: PayloadStatistics) -> Text:
    parts = (
        ("missing", payload.payloads_missing),
        ("captured in part", payload.payloads_cut),
        ("invalid", payload.payloads_invalid),
    )
    told = [words("{} {}", numbers.count(count), what) for what, count in parts if count]
    return words(
        "of {} " + ", ".join("{}" for _ in told) + "{}; what follows is of the rest",
        numbers.things(payload.sends, "payload"),
        *told,
        f"; {payload.first_refusal}" if payload.first_refusal else "",
    )


def _run_orders(payload: PayloadStatistics) -> Table:
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
                numbers.count(run.runs) if run else numbers.count(0),
                numbers.count(run.pages) if run else numbers.count(0),
                numbers.share(run.pages / pages if run and pages else 0.0),
                *(
                    (numbers.count(record.runs) if record else numbers.count(0),)
                    if payload.of_records
                    else ()
                ),
            )
        )
    names = ["run of pages", "runs", "pages", "share", *(["records of 2^n"] if payload.of_records else [])]
    return Table(names, rows, "r" * len(names))
