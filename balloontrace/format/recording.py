# SPDX-License-Identifier: GPL-2.0-or-later
"""The recording file: checksummed pieces written front to back, read back as far as they are whole.

    file    = preamble piece*
    preamble= MAGIC (8 bytes)  major u16  minor u16  crc32 of those 12 bytes u32
    piece   = SYNC (4 bytes)  type (4 ASCII)  sequence u32  payload length u32
              payload crc32 u32  crc32 of those 20 bytes u32, then the payload

All numbers are little endian. Types: META (JSON, first), SPAN (records as drained from the kernel's ring
buffer), PAYL (the same of captured payloads), BTCH (the same of the host's batches),
    SMPL (the same of batches whose calls were sampled), CNTR
(sums since attach, so that a killed recording knows its losses: struct bt_counters, of the host's side each
struct bt_thread in use), PROC (JSON: one of many processes came, or ended), PCTR (the same sums of one of
these, behind its number), DRVR (JSON: the driver went, or is back and traced), READ (JSON: how the machine
stood at one time), ENDR (JSON, last).

A recording comes from a stranger: no length is believed before its checksum, nothing is executed. A preamble
behind a piece, or a META piece 0 that is not the first one's repetition, begins another recording
(`cat a.bt b.bt`): there this one ends.
"""

from __future__ import annotations

import struct
import sys
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from balloontrace.errors import RecordingError, UsageError
from balloontrace.format.format_version import FORMAT_VERSION
from balloontrace.format.pieces import (
    MAGIC,
    MAX_PAYLOAD_BYTES,
    PIECE,
    PREAMBLE,
    Header,
    decode_json,
    find_header,
    find_preamble,
    parse_header,
)
from balloontrace.units import format_things
from balloontrace.untrusted import printable

MAX_DRIVER_EVENTS = 1024
MAX_PROCESS_EVENTS = 100_000  # two a VM: some days of a host where one comes each ten seconds
PROCESS_NUMBER = struct.Struct("<II")  # what a PCTR piece begins with: the number of its process, and 0
MAX_READINGS = 10_000  # one each second that the balloon moves: some three hours of that
MAX_READINGS_BYTES = 32 << 20
_MAX_SENTENCES = 24
# At a piece each 3 s that is a month, each 4 KiB 4 GB. A stranger may put millions of them into a file.
_MOST_PIECES = 1_000_000


@dataclass(frozen=True, slots=True)
class Recording:
    """What is whole in a recording, and in `damage` one sentence for each thing that is not.

    `metadata` and `end` are JSON as found but printable, for `analysis/metadata.py` to read; `spans`,
    `payloads`, `batches` and `sampled` are the contents of SPAN, PAYL, BTCH and SMPL pieces in their order;
    `counters` is the last CNTR piece; `driver_events` are DRVR pieces and `readings` READ pieces, as found
    too, and so are `processes` of PROC pieces. `process_counters` has the last PCTR piece of each process, by
    its number. `notes` tell what was skipped on purpose.
    """

    label: str
    version: tuple[int, int]
    metadata: dict[str, object]
    spans: tuple[memoryview, ...]
    payloads: tuple[memoryview, ...]
    batches: tuple[memoryview, ...]
    counters: bytes | None
    end: dict[str, object] | None
    damage: tuple[str, ...]
    notes: tuple[str, ...]
    size_bytes: int
    driver_events: tuple[dict[str, object], ...] = ()
    sampled: tuple[memoryview, ...] = ()
    readings: tuple[dict[str, object], ...] = ()
    processes: tuple[dict[str, object], ...] = ()
    process_counters: Mapping[int, bytes] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether it was ended properly and every piece of it is here and whole."""
        return self.end is not None and not self.damage


def read_recording(source: Path | BinaryIO) -> Recording:
    """Read a recording from a file or a stream (a pipe will do), as far as it is whole.

    Takes time linear in the size, and memory of about that size. What is missing or damaged is said in
    `damage`. UsageError when there is no such file or it may not be read; RecordingError when it is no
    recording, of a newer major version, or lacks whole metadata.
    """
    label, data = _read_bytes(source)
    version, damage = _parse_preamble(label, data)
    return _PieceReader(label, data, version, damage).read()


def _read_bytes(source: Path | BinaryIO) -> tuple[str, memoryview]:
    """Everything in `source`; the start is looked at first, so that a foreign file is not read whole."""
    if not isinstance(source, Path):
        return "standard input" if source is getattr(sys.stdin, "buffer", None) else "-", _read_stream(source)
    try:
        with source.open("rb") as stream:
            return printable(str(source)), _read_stream(stream)
    except OSError as error:
        raise UsageError(f"cannot read {printable(str(source))}: {error.strerror}") from error


def _read_stream(stream: BinaryIO) -> memoryview:
    start_bytes = PREAMBLE.size + PIECE.size
    start = stream.read(start_bytes)
    if len(start) < start_bytes or not _looks_like_recording(start):
        return memoryview(start)
    return memoryview(start + stream.read())


def _looks_like_recording(start: bytes) -> bool:
    return start.startswith(MAGIC) or parse_header(memoryview(start), PREAMBLE.size) is not None


def _parse_preamble(label: str, data: memoryview) -> tuple[tuple[int, int], list[str]]:
    """Format version, and what is wrong with the preamble; a damaged one is no obstacle if pieces follow."""
    if not data:
        raise RecordingError(f"{label} is empty: nothing was recorded")
    start = bytes(data[: PREAMBLE.size])
    if start.startswith(MAGIC[:-1] + b"\r"):
        raise RecordingError(f"{label} went through a terminal, which broke it; record without ssh -t")
    if len(start) < PREAMBLE.size or not _looks_like_recording(bytes(data[: PREAMBLE.size + PIECE.size])):
        reason = "is cut off in its first bytes" if MAGIC.startswith(start[:8]) else "is not a recording"
        raise RecordingError(f"{label} {reason}; give a file made by `balloontrace record`")
    _, major, minor, crc = PREAMBLE.unpack(start)
    if crc != zlib.crc32(start[:-4]):
        return FORMAT_VERSION, [f"bytes 0 to {PREAMBLE.size - 1} (the format version) are damaged"]
    if major != FORMAT_VERSION[0]:
        raise RecordingError(
            f"{label} has format {major}.{minor}, this version reads {FORMAT_VERSION[0]}.x; "
            "use the balloontrace that recorded it"
        )
    return (major, minor), []


@dataclass(slots=True)
class _PieceReader:
    """One pass over the bytes: each is looked at once by a search and once by a checksum."""

    label: str
    data: memoryview
    version: tuple[int, int]
    damage: list[str]
    sequences: set[int] = field(default_factory=set)
    metadata: dict[str, object] | None = None
    first: Header | None = None
    spans: list[memoryview] = field(default_factory=list)
    payloads: list[memoryview] = field(default_factory=list)
    batches: list[memoryview] = field(default_factory=list)
    sampled: list[memoryview] = field(default_factory=list)
    driver_events: list[dict[str, object]] = field(default_factory=list)
    readings: list[dict[str, object]] = field(default_factory=list)
    readings_bytes: int = 0
    readings_left_out: int = 0
    counters: tuple[int, bytes] | None = None
    processes: list[dict[str, object]] = field(default_factory=list)
    process_counters: dict[int, tuple[int, bytes]] = field(default_factory=dict)
    end: dict[str, object] | None = None
    unknown: dict[bytes, int] = field(default_factory=dict)
    highest: int = -1
    duplicates: int = 0
    reordered: int = 0
    after_end: int = 0
    unsaid: int = 0
    second: int | None = None
    too_many: int = 0
    searched_bytes: int = 0

    def read(self) -> Recording:
        offset = PREAMBLE.size
        while offset < len(self.data):
            offset = self._read_piece(offset)
        if self.second is not None:
            self._note(f"a second recording begins at byte {self.second}; it was left out")
        if self.metadata is None:
            raise RecordingError(
                f"the metadata of {self.label} is damaged or missing, so nothing in it can be decoded"
            )
        self._summarise()
        return Recording(
            self.label,
            self.version,
            self.metadata,
            tuple(self.spans),
            tuple(self.payloads),
            tuple(self.batches),
            self.counters[1] if self.counters else None,
            self.end,
            self._bounded_damage(),
            tuple(self._skipped()),
            len(self.data),
            tuple(self.driver_events),
            tuple(self.sampled),
            tuple(self.readings),
            tuple(self.processes),
            {number: raw for number, (_, raw) in self.process_counters.items()},
        )

    def _skipped(self) -> Iterator[str]:
        """What was left out on purpose."""
        for kind, count in self.unknown.items():
            pieces = format_things(count, "piece")
            yield f"{pieces} of type {_name(kind)} skipped: a newer balloontrace wrote them"
        if self.readings_left_out:
            readings = format_things(self.readings_left_out, "reading")
            yield f"{readings} of the machine left out, behind {len(self.readings)}"

    def _read_piece(self, offset: int) -> int:
        """Take the piece at `offset`, or skip to the next one; returns where to go on."""
        header = parse_header(self.data, offset)
        if header is not None and self._begins_another(header):
            return self._end_at(offset)
        if header is None:
            return self._skip(offset, offset + 1, "no whole piece")
        start, end = offset + PIECE.size, offset + PIECE.size + header.length
        if end > len(self.data):
            return self._skip(offset, start, f"{_name(header.kind)} piece {header.sequence} is cut off")
        payload = self.data[start:end]
        if zlib.crc32(payload) != header.payload_crc:
            return self._skip(
                offset,
                self._resume_after(start, end),
                f"{_name(header.kind)} piece {header.sequence} is damaged",
            )
        self._accept(header, payload)
        return end

    def _resume_after(self, start: int, end: int) -> int:
        """Where to look for the next piece after a bad payload from `start` to `end`.

        Normally behind it. If no piece starts there, bytes were lost or added inside it, and the next piece
        is sought from its start; only so often, though, for a made-up file could make each search long.
        """
        self.searched_bytes += end - start
        if end == len(self.data) or parse_header(self.data, end) is not None:
            return end
        return start if self.searched_bytes <= len(self.data) + MAX_PAYLOAD_BYTES else end

    def _skip(self, offset: int, search_from: int, reason: str) -> int:
        """Go to the next whole piece header at or after `search_from`, noting what was passed over.

        What is passed over may hold the beginning of another recording, which is the end of this one.
        """
        found = find_header(self.data, search_from)
        second = find_preamble(self.data, offset, found)
        if second > offset:
            self._say(offset, min(second, found), reason)
        return found if second >= found else self._end_at(second)

    def _begins_another(self, header: Header) -> bool:
        """Whether a piece is the first one of another recording, whose preamble is damaged or gone."""
        first = self.first
        return header.kind == b"META" and header.sequence == 0 and first is not None and first != header

    def _end_at(self, offset: int) -> int:
        self.second = offset
        return len(self.data)

    def _say(self, start: int, end: int, reason: str) -> None:
        self._note(f"bytes {start} to {end - 1} ({end - start} bytes) skipped: {reason}")

    def _accept(self, header: Header, payload: memoryview) -> None:
        if len(self.sequences) >= _MOST_PIECES:
            self.too_many += 1
            return
        if header.sequence in self.sequences:
            self.duplicates += 1
            return
        self.sequences.add(header.sequence)
        self.reordered += header.sequence < self.highest
        self.highest = max(self.highest, header.sequence)
        self.after_end += self.end is not None
        match header.kind:
            case b"META":
                self._accept_metadata(header, payload)
            case b"SPAN":
                if payload:
                    self.spans.append(payload)
            case b"PAYL":
                if payload:
                    self.payloads.append(payload)
            case b"BTCH":
                if payload:
                    self.batches.append(payload)
            case b"SMPL":
                if payload:
                    self.sampled.append(payload)
            case b"CNTR":
                if self.counters is None or self.counters[0] < header.sequence:
                    self.counters = header.sequence, bytes(payload)
            case b"DRVR":
                event = self._decode_json(header, payload)
                if event is not None and len(self.driver_events) < MAX_DRIVER_EVENTS:
                    self.driver_events.append(event)
            case b"PROC":
                process = self._decode_json(header, payload)
                if process is not None and len(self.processes) < MAX_PROCESS_EVENTS:
                    self.processes.append(process)
            case b"PCTR":
                self._accept_process_counters(header, payload)
            case b"READ":
                self._accept_reading(header, payload)
            case b"ENDR":
                self.end = self._decode_json(header, payload) or self.end
            case _:
                if header.kind in self.unknown or len(self.unknown) < _MAX_SENTENCES:
                    self.unknown[header.kind] = self.unknown.get(header.kind, 0) + 1

    def _accept_metadata(self, header: Header, payload: memoryview) -> None:
        if header.sequence == 0:
            self.first = header
        if self.metadata is not None:
            self._note(f"piece {header.sequence} is a second META piece; the first one is used")
            return
        self.metadata = self._decode_json(header, payload)

    def _accept_process_counters(self, header: Header, payload: memoryview) -> None:
        if len(payload) < PROCESS_NUMBER.size:
            return
        (number, _) = PROCESS_NUMBER.unpack_from(payload)
        known = self.process_counters.get(number)
        if (known is None and len(self.process_counters) < MAX_PROCESS_EVENTS) or (
            known is not None and known[0] < header.sequence
        ):
            self.process_counters[number] = header.sequence, bytes(payload[PROCESS_NUMBER.size :])

    def _accept_reading(self, header: Header, payload: memoryview) -> None:
        self.readings_bytes += len(payload)
        if len(self.readings) >= MAX_READINGS or self.readings_bytes > MAX_READINGS_BYTES:
            self.readings_left_out += 1
            return
        reading = self._decode_json(header, payload)
        if reading is not None:
            self.readings.append(reading)

    def _decode_json(self, header: Header, payload: memoryview) -> dict[str, object] | None:
        try:
            return decode_json(payload)
        except (ValueError, RecursionError):
            self._note(f"the JSON of {_name(header.kind)} piece {header.sequence} cannot be read")
            return None

    def _note(self, *sentences: str) -> None:
        """Remember what is wrong; a file that is damaged all over must not fill the memory with sentences."""
        room = max(0, _MAX_SENTENCES - len(self.damage))
        self.damage += sentences[:room]
        self.unsaid += len(sentences) - len(sentences[:room])

    def _bounded_damage(self) -> tuple[str, ...]:
        more = (f"{self.unsaid} more places are damaged",) if self.unsaid else ()
        return (*self.damage, *more)

    def _summarise(self) -> None:
        """Say once what concerns the recording as a whole."""
        if self.too_many:
            self._note(f"more than {_MOST_PIECES} pieces: the {self.too_many} behind them were left out")
        self._note(*_missing_sentences(sorted(self.sequences)))
        if self.duplicates:
            repeated = format_things(self.duplicates, "piece occurs", "pieces occur")
            self._note(f"{repeated} more than once; the repeats are ignored")
        if self.reordered:
            self._note(f"{format_things(self.reordered, 'piece is', 'pieces are')} out of order")
        if self.after_end:
            self._note(f"{format_things(self.after_end, 'piece follows', 'pieces follow')} the end record")


def _missing_sentences(sequences: list[int]) -> list[str]:
    """One sentence a gap in the sequence numbers; what is missing at the end shows as a missing ENDR."""
    sentences = []
    expected = 0
    for sequence in sequences:
        if sequence > expected:
            gap = (
                f"piece {expected} is"
                if sequence == expected + 1
                else f"pieces {expected} to {sequence - 1} are"
            )
            sentences.append(f"{gap} missing")
        expected = sequence + 1
    return sentences


def _name(kind: bytes) -> str:
    return printable(kind.decode("latin-1"))
