# SPDX-License-Identifier: GPL-2.0-or-later
"""Payloads joined with their sends: what an operation named, and what of it the host had before."""

from __future__ import annotations

import dataclasses
import io
import json
import struct

import pandas as pd
import pytest
import synthetic
from flows import Payload
from patched_flows import PatchedFlow
from people import render_table
from report_checks import report_of
from synthetic_payloads import BASE_PFN, ArrayFlow, NamingFlow, run, word

from balloontrace.analysis.columns import decode_payloads
from balloontrace.format.guest_layout import PAYLOAD_LAYOUT, parse_payload_layout
from balloontrace.format.vocabulary import Function, Queue
from balloontrace.render.json import render_json
from balloontrace.render.report.csv import render_csv
from balloontrace.results.payload import PayloadStatistics
from balloontrace.results.report import Report

LAYOUT = parse_payload_layout(None)


def statistics(report: Report, operation: int = 0) -> PayloadStatistics:
    found = report.operations[operation].payload
    assert found is not None
    return found


def named_checks(report: Report) -> dict[str, bool | None]:
    return {check.name: check.agrees for check in report.checks if "payloads" in check.name}


def test_words_runs_and_bits_are_told_apart() -> None:
    flow = NamingFlow([run(BASE_PFN, 7) + word(BASE_PFN + 128, 0xF0F) + run(BASE_PFN + 192, 6)])
    flow.resize(128 + 8 + 64)
    report = report_of(flow)
    found = statistics(report)
    assert found.of_records is not None
    assert (found.of_records.records, found.of_records.bitmap_words, found.of_records.plain_runs) == (3, 1, 2)
    assert (found.of_records.pages_by_words, found.of_records.bits_carried) == (8, 64)
    assert (found.bytes_sent, found.header_bytes) == (32, 8)
    assert found.bytes_per_page == pytest.approx(40 / 200)
    assert (found.pages_named, found.distinct.pages, found.distinct.runs) == (200, 200, 3)
    assert (found.pages_repeated, found.pages_in_balloon_before) == (0, 0)
    assert named_checks(report) == {
        "balloon_inflate, as payloads name": True,
        "balloon_deflate, as payloads name": True,
    }


def test_what_the_host_had_is_told_from_what_is_new() -> None:
    flow = NamingFlow([run(BASE_PFN, 6), run(BASE_PFN, 7), run(BASE_PFN + 64, 6), run(BASE_PFN + 64, 6)])
    for target in (64, 128, 64, 128):
        flow.resize(target)
    report = report_of(flow)
    assert [statistics(report, n).pages_in_balloon_before for n in range(4)] == [0, 64, 64, 0]
    assert all(named_checks(report).values())


def test_compaction_moves_what_the_host_has() -> None:
    first, second = BASE_PFN, BASE_PFN + 7
    sends = [word(first, 1), word(second, 1), word(first, 1), word(first, 1) + word(second, 1)]
    flow = NamingFlow(sends)
    flow.resize(1)
    flow.migrate()
    flow.resize(2)
    report = report_of(flow)
    # first was given back and second taken when compaction moved it, so that only second is held.
    assert statistics(report, 1).pages_in_balloon_before == 1


def test_pages_given_back_for_want_of_memory_are_new_when_the_same_inflate_takes_them_again() -> None:
    """Found in a guest with deflate-on-oom: 261 124 pages were said never to have been told to the host."""
    flow = ArrayFlow()
    expected = flow.resize(512, max_items=1)
    for _ in range(3):
        flow.next_pfn = BASE_PFN
        flow.oom()
        flow.next_pfn = BASE_PFN
        flow.work(expected, max_items=1)
    flow.work(expected)
    report = report_of(flow)
    found = statistics(report)
    assert (found.sends, found.pages_named, found.distinct.pages) == (5, 5 * 256, 512)
    assert named_checks(report) == {
        "balloon_inflate, as payloads name": True,
        "balloon_deflate, as payloads name": True,
    }


def test_a_send_on_a_queue_that_moves_no_page_ends_what_is_known() -> None:
    flow = NamingFlow([run(BASE_PFN, 6), word(BASE_PFN, 1), word(BASE_PFN + 64, 1), run(BASE_PFN, 6)])
    flow.resize(64)
    flow.migrate()
    other = len(Queue)
    flow.spans = [
        span._replace(queue=other) if span.tid == 77 and span.queue == Queue.DEFLATE else span
        for span in flow.spans
    ]
    flow.resize(128)
    assert statistics(report_of(flow), 1).pages_in_balloon_before is None


def test_a_page_never_named_is_noticed() -> None:
    flow = NamingFlow([run(BASE_PFN, 6)])
    flow.resize(65)
    (check,) = [
        check for check in report_of(flow).checks if check.name == "balloon_inflate, as payloads name"
    ]
    assert check.agrees is False
    assert check.note == "1 page was moved, and the host was not told"


def test_a_missing_payload_leaves_the_rest_and_ends_what_is_known() -> None:
    flow = NamingFlow([run(BASE_PFN, 6), None, run(BASE_PFN, 6)], sends_of_windows=(2,))
    flow._carried = iter([run(BASE_PFN, 6), None, run(BASE_PFN + 64, 6), run(BASE_PFN + 128, 6)])
    flow.resize(128)
    flow.resize(256)
    report = report_of(flow)
    assert (statistics(report).payloads_whole, statistics(report).payloads_missing) == (1, 1)
    assert statistics(report).bytes_per_page is None
    assert statistics(report, 1).pages_in_balloon_before is None
    assert named_checks(report)["balloon_inflate, as payloads name"] is None
    assert "of 2 payloads 1 missing" in " ".join(render_table(report).split())


def test_an_empty_balloon_is_known_again() -> None:
    flow = NamingFlow([None, run(BASE_PFN, 6), run(BASE_PFN, 6)])
    for target in (64, 0, 64):
        flow.resize(target)
    assert statistics(report_of(flow), 2).pages_in_balloon_before == 0


def test_arrays_of_the_stock_driver_have_the_same_numbers() -> None:
    flow = ArrayFlow()
    flow.resize(1000)
    report = report_of(flow)
    found = statistics(report)
    assert found.encoding == "PFN array"
    assert found.of_records is None
    assert (found.sends, found.bytes_sent, found.header_bytes) == (4, 4000, 0)
    assert (found.distinct.runs, found.distinct.longest_run_pages) == (1, 1000)
    assert (found.distinct.pfn_first, found.distinct.pfn_last) == (BASE_PFN - 999, BASE_PFN)
    assert found.runs_named == 4
    assert "4 B a page (4 B as PFN)" in render_table(report)


def test_rows_of_sends_in_csv_and_json() -> None:
    flow = NamingFlow([run(BASE_PFN, 6), word(BASE_PFN + 64, 3)], sends_of_windows=(2,))
    flow.resize(66)
    report = report_of(flow)
    table = pd.read_csv(io.StringIO(render_csv(report)))
    sends = table[table.level == "send"]
    described = json.loads(render_json(report))["operations"][0]["payload_sends"]
    assert sends.bytes_sent.tolist() == described["bytes_sent"] == [8, 16]
    assert sends.pages_named.tolist() == described["pages"] == [64, 2]
    assert sends.payload.tolist() == described["state"] == ["whole", "whole"]
    orders = table[table.level == "run_order"]
    assert (orders.runs * orders.pages).tolist() == [66]
    assert table[table.level == "payload"].runs.tolist() == [1]


def test_without_capture_it_is_not_measured() -> None:
    flow = PatchedFlow()
    flow.resize(64)
    report = report_of(flow)
    assert report.operations[0].payload is None
    assert "what sends named: record --capture payload keeps it" in report.not_measured


def test_pieces_are_joined_up_to_the_first_gap() -> None:
    data = bytes(range(256)) * 10
    raw = synthetic.pack_payloads([Payload(5, 7, Function.SEND_RESP_DATA, data)])
    stride = int(str(PAYLOAD_LAYOUT["stride_bytes"]))
    pieces = [raw[start : start + stride] for start in range(0, len(raw), stride)]
    (whole,) = decode_payloads([b"".join(pieces)], LAYOUT).found
    assert (whole.data, whole.cut) == (data, False)
    (cut,) = decode_payloads([pieces[0], pieces[2]], LAYOUT).found
    assert (cut.data, cut.cut, cut.total_bytes) == (data[:1024], True, len(data))
    (headless,) = decode_payloads(pieces[1:], LAYOUT).found
    assert (headless.data, headless.cut) == (b"", True)
    assert decode_payloads([raw + b"torn"], LAYOUT).damaged == 1


def test_later_bytes_than_a_piece_holds_are_damage() -> None:
    raw = bytearray(synthetic.pack_payloads([Payload(5, 7, Function.TELL_HOST, b"1234")]))
    struct.pack_into("<H", raw, 8 + 20, 1025)
    found = decode_payloads([bytes(raw)], LAYOUT)
    assert (found.found, found.damaged) == ((), 1)


def test_results_are_plain() -> None:
    flow = NamingFlow([run(BASE_PFN, 6)])
    flow.resize(64)
    for value in dataclasses.astuple(statistics(report_of(flow)))[:-2]:
        assert value is None or type(value) in (int, float, str, tuple)


def test_a_window_that_sends_nothing_leaves_the_rest_response_data() -> None:
    flow = NamingFlow([None, run(BASE_PFN, 6), run(BASE_PFN + 64, 6)], sends_of_windows=(1, 1, 1))
    flow.resize(129)
    flow.spans.remove(next(span for span in flow.spans if span.function == Function.SEND_RESP_DATA))
    found = statistics(report_of(flow))
    assert (found.encoding, found.sends, found.payloads_whole) == ("response data", 2, 2)
    assert (found.pages_named, found.distinct.pfn_first) == (128, BASE_PFN)
