# SPDX-License-Identifier: GPL-2.0-or-later
"""What the payloads of an operation named, as plain frozen data; None means "not measured"."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PayloadSends:
    """What each send of an operation carried: columns with one entry a send, in order.

    `state` is whole, cut, invalid or missing. Of what is missing nothing is known but perhaps its length.
    `new_pages` are those that neither this send nor one before it in the operation had named.
    """

    start_ns: tuple[int, ...]
    state: tuple[str, ...]
    bytes_sent: tuple[int | None, ...]
    records: tuple[int | None, ...]
    bitmap_words: tuple[int | None, ...]
    plain_runs: tuple[int | None, ...]
    bits_set: tuple[int | None, ...]
    runs_named: tuple[int | None, ...]
    pages: tuple[int | None, ...]
    new_pages: tuple[int | None, ...]
    first_pfn: tuple[int | None, ...]
    last_pfn: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class RunOrder:
    """How many runs of 2^order up to 2^(order+1) - 1 pages there are, and how many pages are in them."""

    order: int
    runs: int
    pages: int


@dataclass(frozen=True, slots=True)
class Contiguity:
    """How some pages lie: in how many runs of consecutive numbers, as long as can be, and in what span.

    `density` is the share of the pages from first to last that are among them.
    """

    pages: int
    pfn_first: int | None
    pfn_last: int | None
    pfn_span: int | None
    density: float | None
    runs: int
    mean_run_pages: float | None
    longest_run_pages: int | None
    run_orders: tuple[RunOrder, ...]


@dataclass(frozen=True, slots=True)
class RecordStatistics:
    """What the records of response data consist of.

    A bitmap word carries 64 bits and names a page for each that is set. So `pages_by_words` is the number of
    bits set, and `bits_set_share` their share of `bits_carried`. A plain run has no word and names
    2^order pages.
    """

    records: int
    bitmap_words: int
    plain_runs: int
    plain_run_orders: tuple[RunOrder, ...]
    pages_by_words: int
    pages_by_runs: int
    bits_carried: int
    bits_set_share: float | None


@dataclass(frozen=True, slots=True)
class PayloadStatistics:
    """What the payloads of one operation's sends named, and at what price. `of_records`: None for PFN arrays.

    Payloads are whole, missing, cut (captured in part only) or invalid (something was refused;
    `first_refusal` is a sentence). Unless all are whole, pages are those that could be decoded.

    `bytes_sent` is of payloads, `header_bytes` of the response headers before them. `bytes_per_page` is both
    over `pages_named`, to be compared with the 4 bytes of a PFN; None when something was not captured.

    `runs_named` counts what a host meets that takes records as they come: each plain run, each stretch of
    bits set in a word; of PFN arrays, the stretches of consecutive numbers in each, once sorted.

    A page counts in `pages_named` as often as it was named, and once in `distinct`; `pages_repeated` is the
    difference. `pages_in_balloon_before` are the distinct ones that the host had before the operation.
    """

    encoding: str
    sends: int
    payloads_whole: int
    payloads_missing: int
    payloads_cut: int
    payloads_invalid: int
    first_refusal: str | None
    bytes_sent: int | None
    header_bytes: int
    bytes_per_page: float | None
    of_records: RecordStatistics | None
    runs_named: int
    pages_named: int
    pages_repeated: int
    pages_in_balloon_before: int | None
    distinct: Contiguity
