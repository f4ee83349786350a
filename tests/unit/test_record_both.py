# SPDX-License-Identifier: GPL-2.0-or-later
"""`record --side both`: two recorders around a command."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from measured_vm import ScriptGuest

from balloontrace.errors import BalloontraceError, UsageError
from balloontrace.measure.record_both import names_of, record_both, refuse_taken_names
from balloontrace.measure.recorder import RecorderFailed
from balloontrace.measure.sides import Sides

pytestmark = pytest.mark.usefixtures("looks_often")
ENDS = """
import sys, time
sys.stderr.write("balloontrace: probes attached\\n"); sys.stderr.flush()
sys.stdout.write("x" * 100); sys.stdout.flush()
time.sleep(0.5)
sys.exit("balloontrace: the driver is gone")
"""


@pytest.fixture(autouse=True)
def _signals_as_before() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def run(out: Path, command: Sequence[str], duration_s: float | None = None, script: str | None = None) -> int:
    guest = ScriptGuest(script)
    return record_both(Sides(None, guest), out, "a label", command, duration_s, lambda _: None)


def test_it_ends_with_the_command(tmp_path: Path) -> None:
    assert run(tmp_path / "x.bt", ["sh", "-c", "exit 3"]) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["x-guest.bt"]
    assert (tmp_path / "x-guest.bt").read_bytes().endswith(b"end")


def test_it_ends_with_the_time(tmp_path: Path) -> None:
    assert run(tmp_path / "x.bt", ["sleep", "600"], 0.1) != 3
    assert (tmp_path / "x-guest.bt").read_bytes().endswith(b"end")


def test_a_recorder_that_ends_is_told_and_what_it_recorded_is_kept(tmp_path: Path) -> None:
    with pytest.raises(RecorderFailed, match="the driver is gone"):
        run(tmp_path / "x.bt", ["sleep", "600"], script=ENDS)
    assert [path.name for path in tmp_path.iterdir()] == ["x-guest.bt"]


def test_a_recorder_that_cannot_attach_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(BalloontraceError, match="no BTF"):
        run(tmp_path / "x.bt", ["true"], script="import sys; sys.exit('no BTF')")
    assert not list(tmp_path.iterdir())


def test_names_that_are_taken(tmp_path: Path) -> None:
    guest, host = names_of(tmp_path / "x.bt")
    assert (guest.name, host.name) == ("x-guest.bt", "x-host.bt")
    refuse_taken_names(tmp_path / "x.bt", force=False)
    host.touch()
    refuse_taken_names(tmp_path / "x.bt", force=True)
    with pytest.raises(UsageError, match=r"x-host.bt exists already"):
        refuse_taken_names(tmp_path / "x.bt", force=False)
    with pytest.raises(UsageError, match="cannot write into the folder"):
        refuse_taken_names(tmp_path / "no/x.bt", force=False)
