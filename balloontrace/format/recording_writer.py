# SPDX-License-Identifier: GPL-2.0-or-later
"""Writes a recording: pieces as `format/recording` describes them."""

from __future__ import annotations

import errno
import json
import os
import select
import struct
import zlib
from collections.abc import Mapping

from balloontrace.errors import RecordingError
from balloontrace.format.format_version import FORMAT_VERSION
from balloontrace.format.guest_layout import PAYLOAD_LAYOUT, SPAN_LAYOUT
from balloontrace.format.host_layout import BATCH_LAYOUT
from balloontrace.format.pieces import MAGIC, MAX_JSON_BYTES, MAX_PAYLOAD_BYTES, PIECE, SYNC
from balloontrace.format.recording import PROCESS_NUMBER

# With its header: what a torn end can take, or a full disk refuse. Some 56 spans.
_PIECE_BYTES = 4 << 10
_PIECES_A_CALL = 32
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


class RecordingWriter:
    """Writes a recording to a file descriptor, front to back, without ever seeking.

    OSError (disk full, closed pipe) passes through untouched; what was written before stays readable. Of
    records that are refused, no more than one piece would still have fitted.
    """

    def __init__(self, fd: int) -> None:
        self.bytes_written = 0
        self.refused_spans_from_byte = 0
        """Of spans whose writing failed, those before are in whole pieces of the file."""
        self._fd = fd
        self._sequence = 0
        start = MAGIC + struct.pack("<HH", *FORMAT_VERSION)
        self._preamble = start + struct.pack("<I", zlib.crc32(start))
        self._span_stride_bytes = _stride_bytes(SPAN_LAYOUT, "span_layout")
        self._payload_stride_bytes = _stride_bytes(PAYLOAD_LAYOUT, "payload_layout")
        self._batch_stride_bytes = _stride_bytes(BATCH_LAYOUT, "batch_layout")

    def write_metadata(self, metadata: Mapping[str, object]) -> None:
        """Start the file: must come first. The mapping must be JSON; the layouts in it are honoured."""
        self._span_stride_bytes = _stride_bytes(metadata.get("span_layout", SPAN_LAYOUT), "span_layout")
        layout = metadata.get("payload_layout", PAYLOAD_LAYOUT)
        self._payload_stride_bytes = _stride_bytes(layout, "payload_layout")
        self._batch_stride_bytes = _stride_bytes(metadata.get("batch_layout", BATCH_LAYOUT), "batch_layout")
        payload = _encode_json(metadata)
        self._write_all(self._preamble)
        self._write_piece(b"META", payload)

    def write_spans(self, raw: bytes | memoryview) -> None:
        """Append records as drained, in pieces of 4 KiB: one may be lost. Nothing for no bytes."""
        self._write_records(b"SPAN", raw, self._span_stride_bytes)

    def write_payloads(self, raw: bytes | memoryview) -> None:
        """Append records of captured payloads as drained."""
        self._write_records(b"PAYL", raw, self._payload_stride_bytes)

    def write_batches(self, raw: bytes | memoryview) -> None:
        """Append batches as drained."""
        self._write_records(b"BTCH", raw, self._batch_stride_bytes)

    def write_sampled(self, raw: bytes | memoryview) -> None:
        """Append batches whose calls were sampled, which have the size of others."""
        self._write_records(b"SMPL", raw, self._batch_stride_bytes)

    def write_driver(self, event: Mapping[str, object]) -> None:
        """Append that the driver went, or is back and traced."""
        self._write_piece(b"DRVR", _encode_json(event))

    def write_reading(self, reading: Mapping[str, object]) -> None:
        """Append how the machine stood at one time."""
        self._write_piece(b"READ", _encode_json(reading))

    def write_counters(self, raw: bytes) -> None:
        """Append sums since the programs were attached; the last ones count."""
        self._write_piece(b"CNTR", raw)

    def write_process(self, event: Mapping[str, object]) -> None:
        """Append that one of many processes came, or ended."""
        self._write_piece(b"PROC", _encode_json(event))

    def write_process_counters(self, number: int, raw: bytes) -> None:
        """Append sums of one of them, as `write_counters` does of one alone."""
        self._write_piece(b"PCTR", PROCESS_NUMBER.pack(number, 0) + raw)

    def write_end(self, end: Mapping[str, object]) -> None:
        """Append the end record, after which the recording counts as complete."""
        self._write_piece(b"ENDR", _encode_json(end))

    def _write_records(self, kind: bytes, raw: bytes | memoryview, stride_bytes: int) -> None:
        view = memoryview(raw).cast("B")
        step = max(1, (_PIECE_BYTES - PIECE.size) // stride_bytes) * stride_bytes
        for start in range(0, len(view), step * _PIECES_A_CALL):
            several = view[start : start + step * _PIECES_A_CALL]
            payloads = [several[at : at + step] for at in range(0, len(several), step)]
            before_bytes = self.bytes_written
            try:
                self._write_all(*(part for payload in payloads for part in self._piece(kind, payload)))
            except OSError:
                if kind == b"SPAN":
                    whole_pieces = (self.bytes_written - before_bytes) // (step + PIECE.size)
                    self.refused_spans_from_byte = start + whole_pieces * step
                raise

    def _write_piece(self, kind: bytes, payload: bytes | memoryview) -> None:
        self._write_all(*self._piece(kind, payload))

    def _piece(self, kind: bytes, payload: bytes | memoryview) -> tuple[bytes, bytes | memoryview]:
        """Header and payload of the next piece."""
        checked = struct.pack(
            "<4s4sIII", SYNC, kind, self._sequence & 0xFFFFFFFF, len(payload), zlib.crc32(payload)
        )
        # Counted even if the write fails: a reader then sees which piece is missing.
        self._sequence += 1
        return checked + struct.pack("<I", zlib.crc32(checked)), payload

    def _write_all(self, *parts: bytes | memoryview) -> None:
        # One system call for header and payload: a kill between two would leave a torn piece.
        left = [memoryview(part) for part in parts if len(part)]
        at_once = len(left)
        while left:
            try:
                written = os.writev(self._fd, left[:at_once])
            except BlockingIOError:
                # ssh hands its peers non-blocking pipes.
                _wait_writable(self._fd)
                continue
            except OSError as error:
                if error.errno not in _NO_SPACE or at_once <= 2:
                    raise
                # Some file systems refuse all of what would fit in part: a piece at a time, then.
                at_once = 2
                continue
            self.bytes_written += written
            left = _after(left, written)


def _encode_json(value: Mapping[str, object]) -> bytes:
    payload = json.dumps(dict(value), separators=(",", ":"), allow_nan=False).encode()
    if len(payload) > MAX_JSON_BYTES:
        raise RecordingError(f"the recording's metadata would take {len(payload)} bytes, which is too many")
    return payload


def _stride_bytes(layout: object, name: str) -> int:
    stride = layout.get("stride_bytes") if isinstance(layout, Mapping) else None
    if not isinstance(stride, int) or not 0 < stride <= MAX_PAYLOAD_BYTES:
        raise ValueError(f"{name} needs stride_bytes")
    return stride


def _wait_writable(fd: int) -> None:
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    poll.poll()


def _after(parts: list[memoryview], written: int) -> list[memoryview]:
    """What is left of `parts` once their first `written` bytes are gone."""
    left = []
    for part in parts:
        if written < len(part):
            left.append(part[written:])
        written = max(0, written - len(part))
    return left
