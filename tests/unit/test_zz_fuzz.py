# SPDX-License-Identifier: GPL-2.0-or-later
"""Ten thousand damaged recordings: each is read in part or refused in one sentence. Runs last, as slowest."""

from __future__ import annotations

import functools
import io
import json
import multiprocessing
import random
import resource
import warnings
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
import synthetic
from flows import typical_flow
from hypothesis import given, settings
from hypothesis import strategies as st
from mutations import mutate
from people import render_markdown, render_table
from synthetic_host import batches, sampled_stream
from synthetic_vms import Vm, stream_of

from balloontrace.analysis.columns import decode_spans
from balloontrace.analysis.make_pictures import depict
from balloontrace.analysis.make_report import examine
from balloontrace.analysis.operations import find_operations
from balloontrace.analysis.processes import choose_parts, is_of_many
from balloontrace.errors import BalloontraceError
from balloontrace.export.event_rows import described_events
from balloontrace.export.make_time_line import build_timeline
from balloontrace.format.guest_layout import parse_span_layout
from balloontrace.format.recording import read_recording
from balloontrace.render.export.ndjson import render_ndjson
from balloontrace.render.export.perfetto import render_perfetto
from balloontrace.render.json import render_json
from balloontrace.render.report.csv import render_csv
from balloontrace.render.report.html import render_html

pytestmark = pytest.mark.thorough

REAL = sorted((Path(__file__).parents[1] / "data").glob("*.bt"))
MUTATIONS = 10_000
BATCHES = 20
FULL_REPORT_EVERY = 60
HEADROOM_BYTES = 512 << 20


@functools.cache
def find_operations_in(pieces: tuple[bytes, ...], layout: str) -> None:
    """Nothing may be raised but a refusal. Most damage leaves the same pieces as other damage."""
    spans = decode_spans(pieces, parse_span_layout(json.loads(layout)))
    find_operations(spans, interrupts_traced=True)


def report_of(data: bytes, *, full: bool) -> str:
    """How one file is taken: `read`, or the sentence it is refused with. Anything else raised is a bug."""
    try:
        recording = read_recording(io.BytesIO(data))
        find_operations_in(
            tuple(map(bytes, recording.spans)), json.dumps(recording.metadata.get("span_layout"))
        )
        if full:
            parts = choose_parts(recording, None) if is_of_many(recording) else [recording]
            examined = examine(parts[0])
            report = examined.report
            texts = [render_table(report), render_csv(report), render_json(report), render_markdown(report)]
            texts.append("".join(render_ndjson(described_events(examined))))
            texts.append("".join(render_perfetto(build_timeline(examined))))
            texts.append(render_html(report, depict(examined)))
            for text in texts:
                text.encode()
                assert "\x1b" not in text
    except BalloontraceError as error:
        sentence = str(error)
    else:
        return "read"
    assert "\n" not in sentence
    return sentence


def sampled_host() -> bytes:
    """A host whose calls were sampled, with readings of its process."""
    served = batches(typical_flow())
    readings = [
        {
            "began_ns": at_ns - 1_000_000,
            "monotonic_ns": at_ns,
            "memory": {"rss_anon_bytes": 1 << 30, "shared_files": []},
            "faults": {"minor": 17, "major": 0},
        }
        for at_ns in (served[0].kick_ns - 1_000_000, served[-1].done_ns + 2_000_000)
    ]
    return sampled_stream(served, 39_989, readings=readings).getvalue()


def originals() -> list[bytes]:
    """What gets damaged: recordings made up here, and real ones, made in the lab."""
    made = [
        synthetic.recording_bytes(typical_flow()),
        synthetic.recording_bytes(typical_flow(fill_is_symbol=True), pieces=12),
        synthetic.recording_bytes(typical_flow(config_traced=False), ended=False),
        sampled_host(),
        stream_of(Vm("one", typical_flow()), Vm("two", None)).getvalue(),
    ]
    assert REAL
    return made + [path.read_bytes() for path in REAL]


def limit_memory() -> None:
    """From here on this process gets no more than some headroom: a length field believed would end it."""
    used_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used_bytes + HEADROOM_BYTES, resource.RLIM_INFINITY))
    warnings.simplefilter("error")


def run_batch(batch: int) -> dict[str, int]:
    """A share of the mutations; how many were read, and how many refused."""
    files, outcomes = originals(), {"read": 0, "refused": 0}
    for number in range(batch, MUTATIONS, BATCHES):
        source = random.Random(number)
        data = mutate(files[number % len(files)], source)
        try:
            outcome = report_of(data, full=number // BATCHES % FULL_REPORT_EVERY == 0)
        except BaseException as error:
            raise AssertionError(f"mutation {number} is not handled") from error
        outcomes["read" if outcome == "read" else "refused"] += 1
    return outcomes


def test_ten_thousand_mutations_are_read_in_part_or_refused() -> None:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=context, initializer=limit_memory) as pool:
        outcomes = list(pool.map(run_batch, range(BATCHES)))
    read = sum(outcome["read"] for outcome in outcomes)
    refused = sum(outcome["refused"] for outcome in outcomes)
    assert read + refused == MUTATIONS
    # Most damage must leave something to report, and some must be beyond use: else this tests nothing.
    assert read > MUTATIONS // 3
    assert refused > MUTATIONS // 50


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=2000))
def test_arbitrary_bytes_are_refused_in_one_sentence(data: bytes) -> None:
    assert report_of(data, full=True) != "read"
