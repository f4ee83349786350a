# SPDX-License-Identifier: GPL-2.0-or-later
"""What a recording tells of payloads beside what the lab's device and the kernel tell of the same time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tracing import (
    Json,
    report,
)
from witness import Witness

from balloontrace.analysis.columns import Payload, decode_payloads
from balloontrace.format.guest_layout import parse_payload_layout
from balloontrace.format.recording import read_recording

COUNTERS = ("balloon_inflate", "balloon_deflate")
HEADER_BYTES = {"response data": 8, "PFN array": 0}
CAPTURE = ("--capture", "payload")


@dataclass(frozen=True)
class Told:
    """A recording's report and payloads, and what the witnesses say."""

    path: Path
    found: Json
    captured: tuple[Payload, ...]
    vmstat: list[int]
    totals: Json
    buffers: list[Json]

    def operation_buffers(self, operation: Json) -> list[Json]:
        """The device's log of an operation's sends; of each captured payload there must be a buffer."""
        pairs = zip(self.captured, self.buffers, strict=True)
        logged = {payload.start_ns: buffer for payload, buffer in pairs}
        return [logged[start_ns] for start_ns in operation["payload_sends"]["start_ns"]]


def tell(path: Path, witness: Witness) -> Told:
    return Told(path, report(path), captured_in(path), witness.vmstat(), witness.totals(), witness.buffers())


def captured_in(path: Path) -> tuple[Payload, ...]:
    recording = read_recording(path)
    return decode_payloads(
        recording.payloads, parse_payload_layout(recording.metadata.get("payload_layout"))
    ).found


def assert_device_agrees(told: Told) -> None:
    """Each send is a buffer of the device: the same bytes, and both decoded them to the same."""
    assert len(told.captured) == len(told.buffers)
    for operation in told.found["operations"]:
        sends, payload = operation["payload_sends"], operation["payload"]
        header_bytes = HEADER_BYTES[payload["encoding"]]
        logged = told.operation_buffers(operation)
        calls = {"inflate": "discards", "deflate": "willneeds"}[operation["kind"]]
        assert {buffer["queue"] for buffer in logged} == {operation["kind"]}
        assert len(logged) == operation["sends"] == payload["sends"] == payload["payloads_whole"]
        assert sends["bytes_sent"] == [buffer["bytes"] - header_bytes for buffer in logged]
        assert sends["pages"] == [buffer["pages"] for buffer in logged]
        if payload["encoding"] == "response data":
            # Of records the device makes a call for each run, of page numbers one for each page.
            for column, count in (
                ("records", "records"),
                ("bitmap_words", "words"),
                ("plain_runs", "plain_runs"),
                ("runs_named", calls),
            ):
                assert sends[column] == [buffer[count] for buffer in logged]
        assert payload["pages_named"] == sum(buffer["pages"] for buffer in logged)
        assert payload["bytes_sent"] + payload["header_bytes"] == sum(buffer["bytes"] for buffer in logged)
    for payload_, buffer in zip(told.captured, told.buffers, strict=True):
        assert payload_.data == buffer["raw"][len(buffer["raw"]) - payload_.total_bytes :]
        assert len(buffer["raw"]) - payload_.total_bytes == (8 if buffer["mode"] == "bitmap" else 0)


def check(found: Json, name: str) -> Json:
    (row,) = [each for each in found["checks"] if each["name"] == name]
    return dict(row)


def named(found: Json) -> list[Json]:
    """The checks of what payloads name: inflate, deflate."""
    return [check(found, f"{name}, as payloads name") for name in COUNTERS]
