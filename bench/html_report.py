# SPDX-License-Identifier: GPL-2.0-or-later
"""How large the HTML page of a 7 GiB operation is, and how long the command takes to write it."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from balloontrace.format.vocabulary import Function, Queue, SpanFlag
from bench.figures import Benchmark, Figure
from bench.made_recordings import (
    Spans,
    empty_spans,
    end_piece,
    metadata_piece,
    payload_pieces,
    span_pieces,
    write,
)

RUNS = 3
MB = 1e6
SENDS = 7168
PAGES_PER_SEND = 256
PAGES = SENDS * PAGES_PER_SEND
# The patched driver's: every other page of 14 GiB, in as many words of bitmap as a send can carry.
BITMAP_SENDS = 28
WORDS_PER_SEND = 2048

_Bytes = NDArray[np.uint8]


def write_stock(path: Path) -> None:
    """An inflate of 7 GiB by the stock driver, whose page numbers are in no order; payloads captured."""
    records = empty_spans((SENDS, 2))
    send, work = records[:, 0], records[:, 1]
    send_ns = 100_000 + np.arange(SENDS) * 7919 % 800_000
    work_ns = send_ns + 50_000
    start_ns = 1_000_000_000 + np.cumsum(work_ns + 3_000) - work_ns
    send["start_ns"], send["duration_ns"], send["pages"] = start_ns + 30_000, send_ns, PAGES_PER_SEND
    send["function"], send["queue"] = Function.TELL_HOST, Queue.INFLATE
    send["flags"] = SpanFlag.DEVICE | SpanFlag.QUEUE | SpanFlag.PAGES
    work["start_ns"], work["duration_ns"] = start_ns, work_ns
    work["function"], work["config_calls"], work["config_ns"] = Function.UPDATE_BALLOON_SIZE_FUNC, 2, 9_000
    work["flags"] = SpanFlag.DEVICE | SpanFlag.TARGET | SpanFlag.ACTUAL | SpanFlag.CONFIG
    work["target_pages"], work["actual_pages"] = PAGES, (np.arange(SENDS) + 1) * PAGES_PER_SEND
    pfns = np.random.default_rng(7).permutation(2 * PAGES)[:PAGES].astype("<u4")
    payloads = pfns.reshape(SENDS, PAGES_PER_SEND).view(np.uint8)
    _write(path, records.reshape(-1), (start_ns + 30_000, Function.TELL_HOST, payloads))


def write_patched(path: Path) -> None:
    """An inflate of 7 GiB by the patched driver at its worst: every other page; payloads captured."""
    records = empty_spans(BITMAP_SENDS + 3)
    start_ns = 6_000_000_000 + np.arange(BITMAP_SENDS) * 20_000_000
    outer = zip(
        (Function.UPDATE_BALLOON_SIZE_FUNC, Function.SET_PAGE_BITMAP, Function.TELL_HOST),
        (1_000_000_000, 5_900_000_000, 5_950_000_000),
        strict=True,
    )
    for row, (function, begins_ns) in enumerate(outer):
        records[row]["function"], records[row]["start_ns"] = function, begins_ns
        records[row]["duration_ns"] = start_ns[-1] + 19_000_000 + (3 - row) * 1000 - begins_ns
    records[0]["flags"] = SpanFlag.DEVICE | SpanFlag.TARGET | SpanFlag.ACTUAL
    records[0]["target_pages"] = records[0]["actual_pages"] = PAGES
    records[1]["flags"] = SpanFlag.DEVICE | SpanFlag.QUEUE | SpanFlag.PAGES
    records[1]["pages"], records[1]["passes"], records[1]["bitmaps"] = PAGES, 1, 9
    records[2]["flags"] = SpanFlag.DEVICE | SpanFlag.QUEUE
    sends = records[3:]
    sends["start_ns"], sends["duration_ns"], sends["function"] = start_ns, 18_000_000, Function.SEND_RESP_DATA
    sends["flags"] = SpanFlag.DEVICE | SpanFlag.QUEUE | SpanFlag.BYTES
    words = np.empty((BITMAP_SENDS, WORDS_PER_SEND, 2), dtype="<u8")
    first_pfns = np.arange(BITMAP_SENDS * WORDS_PER_SEND, dtype=np.uint64).reshape(BITMAP_SENDS, -1) * 64
    words[:, :, 0] = first_pfns | np.uint64(12 << 52 | 8 << 58)
    words[:, :, 1] = 0x5555_5555_5555_5555
    payloads = words.reshape(BITMAP_SENDS, -1).view(np.uint8)
    sends["bytes"] = payloads.shape[1]
    _write(path, records, (start_ns, Function.SEND_RESP_DATA, payloads))


def _write(path: Path, records: Spans, sent: tuple[NDArray[np.int64], Function, _Bytes]) -> None:
    """A recording of these spans, and of what its sends carried: one row of `sent` each."""
    functions = sorted({Function(number) for number in records["function"].tolist()})
    probes = [{"function": function.symbol, "status": "attached"} for function in functions]
    pieces = (metadata_piece(probes=probes), *span_pieces(records), *payload_pieces(*sent), end_piece())
    write(path, iter(pieces))


def measure_pages() -> Iterator[Figure]:
    """`report --format html` of both: best time of RUNS, and size."""
    for name, write_it in (("stock", write_stock), ("patched", write_patched)):
        with tempfile.TemporaryDirectory() as folder:
            recording, page = Path(folder) / "seven.bt", Path(folder) / "seven.html"
            write_it(recording)
            argv = [sys.executable, "-m", "balloontrace", "report", str(recording)]
            argv += ["--format", "html", "-f", "-o", str(page)]
            taken_s = []
            for _ in range(RUNS):
                started_s = time.monotonic()
                subprocess.run(argv, check=True, stderr=subprocess.DEVNULL)
                taken_s.append(time.monotonic() - started_s)
            yield Figure(f"html_7_gib_{name}", min(taken_s), "s", at_most=5)
            yield Figure(f"html_7_gib_{name}_size", page.stat().st_size / MB, "MB", at_most=2)


NAMES = tuple(f"html_7_gib_{name}{what}" for name in ("stock", "patched") for what in ("", "_size"))

BENCHMARKS = (Benchmark(NAMES, measure_pages),)
