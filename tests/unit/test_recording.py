# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import errno
import io
import itertools
import os
import threading
from pathlib import Path

import pytest
import synthetic
from fake_system import limited_to
from flows import typical_flow
from mutations import join, seal, split

from balloontrace.errors import RecordingError, UsageError
from balloontrace.format.pieces import MAGIC, MAX_PAYLOAD_BYTES
from balloontrace.format.recording import read_recording
from balloontrace.format.recording_writer import RecordingWriter


def read(data: bytes) -> object:
    return read_recording(io.BytesIO(data))


@pytest.fixture(scope="module")
def whole() -> bytes:
    return synthetic.recording_bytes(typical_flow())


def test_what_is_written_is_read_back(whole: bytes, tmp_path: Path) -> None:
    path = tmp_path / "whole.bt"
    path.write_bytes(whole)
    recording = read_recording(path)
    flow = typical_flow()
    spans = sorted(flow.spans, key=lambda span: span.end_ns)
    assert b"".join(recording.spans) == synthetic.pack_spans(spans)
    assert recording.counters == synthetic.pack_counters(spans)
    assert recording.metadata == synthetic.metadata([flow])
    assert recording.end == synthetic.end_record([flow])
    assert recording.complete
    assert recording.size_bytes == len(whole)
    assert recording.label == str(path)


def test_a_pipe_is_read_and_written_with_short_writes(whole: bytes) -> None:
    del whole
    read_fd, write_fd = os.pipe()
    os.set_blocking(write_fd, False)
    spans = bytes(64) * 40_000

    def write() -> None:
        writer = RecordingWriter(write_fd)
        writer.write_metadata({"label": "pipe"})
        writer.write_spans(spans)
        writer.write_end({"clean": True})
        os.close(write_fd)

    thread = threading.Thread(target=write)
    thread.start()
    with os.fdopen(read_fd, "rb") as stream:
        recording = read_recording(stream)
    thread.join()
    assert recording.complete
    assert b"".join(recording.spans) == spans


def test_large_drains_are_split_at_whole_records(tmp_path: Path) -> None:
    path = tmp_path / "large.bt"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    writer = RecordingWriter(fd)
    writer.write_metadata({"span_layout": {"stride_bytes": 72}})
    writer.write_spans(memoryview(bytes(72 * 300_000)))
    os.close(fd)
    pieces = read_recording(path).spans
    assert all(len(piece) % 72 == 0 and len(piece) <= 4 << 10 for piece in pieces)
    assert sum(map(len, pieces)) == 72 * 300_000
    assert writer.bytes_written == path.stat().st_size


@pytest.mark.parametrize("stride_bytes", [72, 1048, 5000])
@pytest.mark.parametrize("room_bytes", [4 << 10, 17 << 10, 60_000, 200_001])
def test_a_full_disk_costs_no_more_than_a_piece(tmp_path: Path, room_bytes: int, stride_bytes: int) -> None:
    path = tmp_path / "full.bt"
    with limited_to(room_bytes), path.open("wb") as file:
        writer = RecordingWriter(file.fileno())
        writer.write_metadata({"span_layout": {"stride_bytes": stride_bytes}})
        with pytest.raises(OSError, match="large"):
            writer.write_spans(bytes(stride_bytes * (1 + 300_000 // stride_bytes)))
    recording = read_recording(path)
    metadata_bytes = writer.bytes_written - sum(len(piece) + 24 for piece in recording.spans)
    assert recording.size_bytes == room_bytes == writer.bytes_written
    # What is there of the last piece is torn off: less than a piece, or than the one record it must hold.
    assert metadata_bytes < 200 + max(4 << 10, stride_bytes + 24)


def test_a_file_system_that_refuses_a_large_write_is_asked_for_smaller_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room_bytes = [20_000]
    writev = os.writev

    def all_or_nothing(fd: int, parts: list[memoryview]) -> int:
        size_bytes = sum(map(len, parts))
        if size_bytes > room_bytes[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        room_bytes[0] -= size_bytes
        return writev(fd, parts)

    monkeypatch.setattr(os, "writev", all_or_nothing)
    path = tmp_path / "full.bt"
    with path.open("wb") as file:
        writer = RecordingWriter(file.fileno())
        writer.write_metadata({"span_layout": {"stride_bytes": 72}})
        with pytest.raises(OSError, match="space"):
            writer.write_spans(bytes(72 * 5000))
    recording = read_recording(path)
    assert recording.damage == ()
    assert 0 <= room_bytes[0] < 4 << 10
    assert len(recording.spans) == 4


def test_errors_of_the_system_reach_the_caller() -> None:
    fd = os.open("/dev/full", os.O_WRONLY)
    with pytest.raises(OSError, match="space") as caught:
        RecordingWriter(fd).write_metadata({})
    os.close(fd)
    assert caught.value.errno == errno.ENOSPC


def test_every_truncation_keeps_what_was_whole(whole: bytes) -> None:
    pieces = split(whole)
    lengths = [len(seal(piece)) for piece in pieces]
    for cut in range(len(whole) - sum(lengths[1:]), len(whole), 97):
        recording = read_recording(io.BytesIO(whole[:cut]))
        left, expected = cut - 16, 0
        for (kind, _, _), length in zip(pieces, lengths, strict=True):
            left -= length
            expected += left >= 0 and kind == b"SPAN"
        assert len(recording.spans) == expected
        assert not recording.complete
        assert recording.end is None


def test_a_missing_piece_is_named_by_its_number(whole: bytes) -> None:
    pieces = split(whole)
    recording = read_recording(io.BytesIO(join(pieces[:3] + pieces[4:])))
    assert recording.damage == ("piece 3 is missing",)
    recording = read_recording(io.BytesIO(join(pieces[:1] + pieces[4:])))
    assert recording.damage == ("pieces 1 to 3 are missing",)


def test_repeats_are_ignored_and_disorder_is_harmless(whole: bytes) -> None:
    pieces = split(whole)
    repeated = read_recording(io.BytesIO(join([*pieces[:2], pieces[1], *pieces[2:]])))
    assert len(repeated.spans) == 3
    assert "more than once" in repeated.damage[0]
    shuffled = read_recording(io.BytesIO(join([pieces[0], pieces[4], pieces[3], *pieces[1:3], *pieces[5:]])))
    assert sorted(map(bytes, shuffled.spans)) == sorted(
        payload for kind, _, payload in pieces if kind == b"SPAN"
    )
    assert shuffled.counters == pieces[-2][2]
    assert "out of order" in shuffled.damage[0]


def test_damage_inside_a_piece_costs_that_piece_only(whole: bytes) -> None:
    pieces = split(whole)
    at = whole.index(seal(pieces[3])) + 200
    for damaged in (
        whole[:at] + b"X" + whole[at + 1 :],
        whole[:at] + whole[at + 10 :],
        whole[:at] + b"inserted" + whole[at:],
    ):
        recording = read_recording(io.BytesIO(damaged))
        assert len(recording.spans) == 2
        assert recording.end is not None
        assert "skipped: SPAN piece 3 is damaged" in recording.damage[0]
        assert f"bytes {at - 200} to" in recording.damage[0]


def test_unknown_pieces_of_a_newer_minor_version_are_skipped(whole: bytes) -> None:
    pieces = split(whole)
    newer = [*pieces[:-1], (b"NEWS", len(pieces) - 1, b"?"), (b"ENDR", len(pieces), pieces[-1][2])]
    recording = read_recording(io.BytesIO(join(newer, version=(1, 7))))
    assert recording.version == (1, 7)
    assert recording.complete
    assert recording.notes == ("1 piece of type NEWS skipped: a newer balloontrace wrote them",)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "is empty"),
        (MAGIC[:5], "cut off in its first bytes"),
        (b"\x7fELF" + bytes(5000), "is not a recording"),
        (MAGIC[:-1] + b"\r\n" + bytes(500), "without ssh -t"),
        (join([], version=(2, 0)) + bytes(24), "has format 2.0"),
        (join([]), "metadata"),
        (join([(b"META", 0, b"[]")]), "metadata"),
        (join([(b"META", 0, b'{"a":' + b"[" * 200_000)]), "metadata"),
        (join([(b"META", 0, b"{" + b" " * (5 << 20) + b"}")]), "metadata"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_sentence(data: bytes, sentence: str) -> None:
    with pytest.raises(RecordingError, match=sentence) as caught:
        read(data)
    assert "\n" not in str(caught.value)


def test_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(UsageError, match="cannot read"):
            read_recording(path)


def test_an_endless_foreign_stream_is_not_read() -> None:
    with pytest.raises(RecordingError, match="not a recording"):
        read_recording(Path("/dev/zero"))


def test_made_up_files_take_linear_time() -> None:
    # Each header promises the largest payload, whole and wrong: 24 bytes could cost 16 MiB of work.
    header = seal((b"SPAN", 1, b""))
    lying = bytearray(seal((b"SPAN", 1, bytes(MAX_PAYLOAD_BYTES)))[:24])
    assert len(header) == len(lying)
    data = join([(b"META", 0, b"{}")]) + bytes(lying) * 200_000 + bytes(MAX_PAYLOAD_BYTES)
    recording = read_recording(io.BytesIO(data))
    assert not recording.spans
    assert len(recording.damage) <= 32


def test_a_preamble_that_is_damaged_costs_nothing_else(whole: bytes) -> None:
    recording = read_recording(io.BytesIO(b"XXXX" + whole[4:]))
    assert len(recording.spans) == 3
    assert len(recording.damage) == 1


def test_a_second_recording_in_the_file_is_left_out_and_told(whole: bytes) -> None:
    other = synthetic.recording_bytes(typical_flow(fill_is_symbol=True), changes={"label": "other"})
    alone, pieces = read_recording(io.BytesIO(whole)), split(whole)
    torn = whole[: -len(seal(pieces[-1])) - len(seal(pieces[-2])) - 300]  # in the middle of a piece of spans
    for first, second in itertools.product((whole, torn), (whole, other, b"XXXX" + other[4:], other[:300])):
        recording = read_recording(io.BytesIO(first + second))
        told = [sentence for sentence in recording.damage if "second recording" in sentence]
        # Without its preamble it begins with its metadata.
        at = len(first) + (16 if second.startswith(b"XXXX") else 0)
        assert told == [f"a second recording begins at byte {at}; it was left out"]
        assert not recording.complete
        assert recording.metadata == alone.metadata
        assert recording.spans == read_recording(io.BytesIO(first)).spans
        assert (recording.end is None) == (first is torn)


def test_what_looks_like_a_preamble_inside_a_whole_piece_is_data(whole: bytes) -> None:
    pieces = split(whole)
    hidden = [pieces[0], (b"NEWS", 1, whole[:16] * 3), *((kind, n + 1, data) for kind, n, data in pieces[1:])]
    recording = read_recording(io.BytesIO(join(hidden)))
    assert recording.complete
    assert len(recording.spans) == 3
