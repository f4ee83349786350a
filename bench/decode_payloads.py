# SPDX-License-Identifier: GPL-2.0-or-later
"""How long payloads take to decode, and those of one operation to summarise, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from balloontrace.analysis.page_sets import PageSet
from balloontrace.analysis.payload_decoding import Encoding, batches, decode_response_data
from balloontrace.analysis.payload_statistics import Captured, summarise_payloads
from bench.figures import Benchmark, Figure

PAYLOADS = 10_000
PAYLOAD_WORDS = 4096
# A window of 32 GiB with every other page in the balloon, which is as many runs as there can be.
OPERATION_PAYLOADS = 64
PFN_LIMIT = 1 << 40

_Words = NDArray[np.uint64]


@dataclass(frozen=True)
class Measured:
    """Wall time, and the most memory used at a time beyond the payloads."""

    seconds: float
    peak_bytes: int


def measure_decoding() -> Iterator[Figure]:
    """10 000 payloads of 32 KiB, half of them bitmap words and half plain runs: 30 million records."""
    measured = _in_a_child("decode")
    yield Figure("decode_10000_payloads", measured.seconds, "s", at_most=5)
    yield Figure("decode_10000_payloads_memory", measured.peak_bytes / 1e9, "GB", at_most=1.5)


def measure_summary() -> Iterator[Figure]:
    """Bitmap words of 8 million pages taken at random, half of which were in the balloon before."""
    measured = _in_a_child("summarise")
    yield Figure("summarise_32_gib_at_random", measured.seconds, "s")
    yield Figure("summarise_32_gib_at_random_memory", measured.peak_bytes / 1e9, "GB")


def _in_a_child(what: str) -> Measured:
    argv = [sys.executable, "-m", "bench.decode_payloads", what]
    return Measured(**json.loads(subprocess.run(argv, stdout=subprocess.PIPE, check=True).stdout))


def _bitmap_words(payloads: int, first_pfns: _Words) -> _Words:
    """Full payloads of words with random bits; each payload's pages begin at its first PFN."""
    words = np.empty((payloads, PAYLOAD_WORDS // 2, 2), dtype="<u8")
    steps = np.arange(PAYLOAD_WORDS // 2, dtype=np.uint64) * np.uint64(64)
    words[:, :, 0] = (first_pfns[:, None] + steps) | np.uint64(12 << 52 | 8 << 58)
    words[:, :, 1] = np.random.default_rng(1).integers(0, 2**64, words.shape[:2], dtype=np.uint64)
    return words.reshape(payloads, PAYLOAD_WORDS)


def _plain_runs(payloads: int) -> _Words:
    chance = np.random.default_rng(2)
    shifts = chance.integers(12, 30, (payloads, PAYLOAD_WORDS), dtype=np.uint64) << np.uint64(52)
    pfns = chance.integers(0, PFN_LIMIT, (payloads, PAYLOAD_WORDS), dtype=np.uint64)
    return shifts | pfns


def _views(*tables: _Words) -> list[memoryview]:
    return [memoryview(row.view(np.uint8)) for table in tables for row in table]


def _decode() -> Callable[[], None]:
    first_pfns = np.random.default_rng(3).integers(0, PFN_LIMIT, PAYLOADS // 2, dtype=np.uint64)
    payloads = _views(_bitmap_words(PAYLOADS // 2, first_pfns), _plain_runs(PAYLOADS // 2))
    assert sum(map(len, payloads)) == 10_000 << 15

    def run() -> None:
        records = pages = 0
        for batch in batches(payloads):
            found = decode_response_data(payloads[batch])
            assert not found.refusals
            records += len(found.pages)
            pages += int(found.pages.sum())
        assert records == PAYLOADS * PAYLOAD_WORDS * 3 // 4
        assert pages > 64 * records

    return run


def _summarise() -> Callable[[], None]:
    pages_each = PAYLOAD_WORDS // 2 * 64
    first_pfns = np.arange(OPERATION_PAYLOADS, dtype=np.uint64) * np.uint64(pages_each)
    payloads = _views(_bitmap_words(OPERATION_PAYLOADS, first_pfns))
    before = PageSet.from_runs(np.arange(0, 8 << 20, 2), np.arange(0, 8 << 20, 2) + 1)

    def run() -> None:
        statistics = summarise_payloads(Captured(Encoding.RESPONSE_DATA, payloads), before).statistics
        assert statistics.pages_repeated == 0
        assert statistics.runs_named > statistics.distinct.runs > 1_000_000

    return run


def _measure(prepare: Callable[[], Callable[[], None]]) -> Measured:
    run = prepare()
    started_s = time.monotonic()
    run()
    seconds = time.monotonic() - started_s
    tracemalloc.start()  # numpy's arrays are counted too
    run()
    return Measured(seconds, tracemalloc.get_traced_memory()[1])


PREPARE: Mapping[str, Callable[[], Callable[[], None]]] = {"decode": _decode, "summarise": _summarise}

BENCHMARKS = (
    Benchmark(("decode_10000_payloads", "decode_10000_payloads_memory"), measure_decoding),
    Benchmark(("summarise_32_gib_at_random", "summarise_32_gib_at_random_memory"), measure_summary),
)

if __name__ == "__main__":
    print(json.dumps(vars(_measure(PREPARE[sys.argv[1]]))))
