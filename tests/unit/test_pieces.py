# SPDX-License-Identifier: GPL-2.0-or-later
"""A recording in pieces: each event and count in one of them, and each archived once, whatever is killed."""

from __future__ import annotations

import shutil
import signal
import struct
import time
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest
from click.testing import CliRunner
from fleets import EXAMPLES, contents, dataset_of
from hypothesis import given
from hypothesis import strategies as st
from scripted_session import RECORD, ScriptedCollector, counters, spans_in
from synthetic_host import CallSums, slot

from balloontrace.archive.archive_recordings import archive
from balloontrace.archive.storage import open_storage
from balloontrace.cli import cli
from balloontrace.commands.record import record as record_command
from balloontrace.commands.serve import _words_of_recorder
from balloontrace.errors import BalloontraceError, UsageError
from balloontrace.format.guest_counters import counters_since, parse_counters
from balloontrace.format.guest_layout import FUNCTION_COUNTERS
from balloontrace.format.host_counters import parse_host_counters, slots_since
from balloontrace.format.recording import read_recording
from balloontrace.format.vocabulary import Call, Function
from balloontrace.serve.recorder_child import RecorderChild
from balloontrace.trace.archiver import Archiver, NoArchiver
from balloontrace.trace.guest.collector import GuestCollector
from balloontrace.trace.guest.diagnosis import GuestDiagnosis
from balloontrace.trace.guest.session import GuestSession
from balloontrace.trace.options import TraceOptions
from balloontrace.trace.pieces import Pieces, record_in_pieces
from balloontrace.trace.session import Ending, SessionResult
from balloontrace.trace.side import Attached

SPANS = (3, 5, 7, 11, 13)
LOOKS = 20  # until the operation that ends the last piece


class FollowedCollector(ScriptedCollector):
    """Counts how often another recording began; something moves at each look if it `moves`."""

    begun = looks = 0
    moves = False

    def read_counters(self) -> bytes:
        self.looks += 1
        raw = bytearray(counters(self.looks >= LOOKS))
        struct.pack_into(
            "Q", raw, Function.TELL_HOST * FUNCTION_COUNTERS.size_bytes + 8, self.moves * self.looks
        )
        return bytes(raw)

    def end_counts(self) -> None:
        assert not self.detached

    def begin_anew(self) -> None:
        self.begun += 1


@dataclass
class ScriptedGuest:
    """What a side is once it is attached."""

    collector: FollowedCollector
    diagnosis: GuestDiagnosis
    target: str = ""

    def open_session(self, output_fd: int, options: TraceOptions) -> GuestSession:
        collector = cast(GuestCollector, self.collector)
        return GuestSession(collector, self.diagnosis, output_fd, options, say=lambda _: None)


class AlwaysDue(Pieces):
    def next_s(self) -> float:
        return time.monotonic()


def pieces_in(folder: Path) -> Pieces:
    return AlwaysDue(folder, 3600, NoArchiver())


def record(
    folder: Path, diagnosis: GuestDiagnosis, *, moves: bool
) -> tuple[FollowedCollector, SessionResult]:
    collector = FollowedCollector(diagnosis, [RECORD * count for count in SPANS])
    collector.moves = moves
    attached = cast(Attached, ScriptedGuest(collector, diagnosis))
    pieces = pieces_in(folder)
    pieces.prepare()
    return collector, record_in_pieces(attached, TraceOptions(operations=1), pieces, "")


@pytest.mark.usefixtures("signals_as_before")
def test_pieces_follow_each_other_without_a_gap(tmp_path: Path, diagnosis: GuestDiagnosis) -> None:
    collector, result = record(tmp_path / "pieces", diagnosis, moves=False)
    found = [read_recording(path) for path in sorted((tmp_path / "pieces").glob("*.bt"))]
    assert result.ending is Ending.OPERATIONS
    assert len(found) == collector.begun + 1 > 3
    assert sum(map(spans_in, found)) == result.records == sum(SPANS)
    assert all(each.complete for each in found)
    assert len({each.metadata["recording_id"] for each in found}) == len(found)
    reasons = [each.end and each.end["reason"] for each in found]
    assert reasons == [*[str(Ending.NEXT)] * collector.begun, str(Ending.OPERATIONS)]
    assert collector.detached


@pytest.mark.usefixtures("signals_as_before")
def test_a_balloon_that_moves_is_not_cut(
    tmp_path: Path, diagnosis: GuestDiagnosis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until it has moved for a minute."""
    assert record(tmp_path / "pieces", diagnosis, moves=True)[0].begun == 0
    monkeypatch.setattr("balloontrace.trace.session._MOST_LATE_S", 0)
    assert record(tmp_path / "pieces", diagnosis, moves=True)[0].begun > 3


@given(st.lists(st.tuples(st.integers(0, 1 << 40), st.integers(0, 1 << 40)), min_size=11, max_size=11))
def test_counters_of_a_piece_are_what_came_in_it(values: list[tuple[int, int]]) -> None:
    before, now = bytearray(counters(3)), bytearray(counters(8))
    for place, (first, more) in enumerate(values):
        struct.pack_into("Q", before, Function.TELL_HOST * FUNCTION_COUNTERS.size_bytes + 8 * place, first)
        struct.pack_into(
            "Q", now, Function.TELL_HOST * FUNCTION_COUNTERS.size_bytes + 8 * place, first + more
        )
    found = parse_counters(counters_since(bytes(now), bytes(before)))
    assert list(vars(found.functions[Function.TELL_HOST]).values()) == [more for _, more in values]
    assert found.operations == 8  # how a device stands is no sum


def test_slots_of_a_piece_have_what_came_in_it() -> None:
    def slots(calls: int) -> bytes:
        return b"".join(
            slot(thread, CallSums(Call.MADVISE_DONTNEED, calls, calls << 12, 7)) for thread in (1, 2)
        )

    found = parse_host_counters(slots_since(slots(9), slots(4)))
    assert found.calls[Call.MADVISE_DONTNEED].bytes == 2 * 5 << 12
    assert parse_host_counters(slots_since(slots(9), bytes(len(slots(9))))) == parse_host_counters(slots(9))


def test_what_a_killed_recorder_left_is_a_piece(tmp_path: Path) -> None:
    left, live = tmp_path / "balloon-1.bt.part", tmp_path / "balloon-2.bt.part"
    left.write_bytes(b"left")
    with live.open("wb"):
        pieces_in(tmp_path).prepare()
    assert {path.name for path in tmp_path.iterdir()} == {"balloon-1.bt", live.name}


@pytest.fixture
def waiting(tmp_path: Path) -> Path:
    """Four recordings, one of which was cut short by a kill."""
    folder = tmp_path / "waiting"
    folder.mkdir()
    for name in ("before-001-guest.bt", "before-001-host.bt", "before-002-guest.bt"):
        shutil.copy(EXAMPLES / "before" / name, folder)
    whole = (EXAMPLES / "bitmap-inflate.bt").read_bytes()
    (folder / "cut.bt").write_bytes(whole[: len(whole) - 700])
    return folder


def test_an_archiver_that_is_killed_loses_nothing(waiting: Path, tmp_path: Path) -> None:
    expected = tmp_path / "expected"
    archive([waiting], open_storage(str(expected)), keep_damaged=True)
    archiver = Archiver(waiting, str(tmp_path / "data"))
    archiver.start()
    child = archiver._child
    assert child is not None
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    archiver.finish()
    assert not list(waiting.iterdir())
    assert dataset_of(tmp_path / "data").ranks == dataset_of(expected).ranks
    assert len(dataset_of(expected).ranks) == 4
    again = Archiver(waiting, str(tmp_path / "data"))
    before = contents(tmp_path / "data")
    again.finish()
    assert contents(tmp_path / "data") == before


def test_an_archiver_that_fails_leaves_all_where_it_is(
    waiting: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data").write_text("no folder")
    archiver = Archiver(waiting, str(tmp_path / "data"))
    archiver.start()
    archiver._wait()
    archiver.start()
    with pytest.raises(BalloontraceError, match=r"could not be archived; balloontrace archive .* --remove"):
        archiver.finish()
    assert "could not be archived; they are tried again" in capfd.readouterr().err
    assert len(list(waiting.iterdir())) == 4


def test_missing_libraries_are_said_before_recording(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = {"pyarrow": None}
    monkeypatch.setattr("balloontrace.trace.archiver.find_spec", lambda name: found.get(name, name))
    with pytest.raises(UsageError, match=r"pip install 'balloontrace\[fleet\]' brings it"):
        Archiver(tmp_path, "data")


def test_serve_runs_a_recorder_beside_it() -> None:
    """Without a balloon it ends at once, which is said once; as its input ends it would end, too."""
    words = _words_of_recorder("1h", "data", "waiting", TraceOptions(vm="web*"), is_host=True)
    assert words[:5] == ["--side", "host", "--all", "--vm", "web*"]
    assert words[-6:] == ["-o", "waiting", "--archive-every", "1h", "--to", "data"]
    context = record_command.make_context("record", ["--until-eof", *words])
    assert (context.params["every_s"], context.params["all_vms"]) == (3600, True)
    assert _words_of_recorder(None, None, None, TraceOptions(), is_host=True) == []
    with pytest.raises(UsageError, match="go together"):
        _words_of_recorder("1h", None, None, TraceOptions(), is_host=False)
    said: list[str] = []
    with RecorderChild(["--archive-every", "1h"], said.append) as child:
        child._process.wait()
        child.look()
        child.look()
    assert said == ["balloontrace: warning: the recorder has ended, and nothing is archived any more\n"]


def test_what_is_being_written_is_not_removed(waiting: Path, tmp_path: Path) -> None:
    words = ["archive", str(waiting), "--to", str(tmp_path / "data"), "--keep-damaged", "--remove"]
    with (waiting / "cut.bt").open("ab"):
        assert CliRunner().invoke(cli, words).exit_code == 0
    assert [path.name for path in waiting.iterdir()] == ["cut.bt"]
    assert CliRunner().invoke(cli, words).exit_code == 0
    assert not list(waiting.iterdir())


def test_a_dataset_needs_pieces() -> None:
    """Pieces need no dataset: without one they stay in their folder."""
    done = CliRunner().invoke(cli, ["record", "--to", "data"])
    assert str(done.exception) == "--to DATASET goes with --archive-every TIME"
    context = record_command.make_context("record", ["--archive-every", "1h"])
    assert (context.params["every_s"], context.params["dataset"]) == (3600, None)
