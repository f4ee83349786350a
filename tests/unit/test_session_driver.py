# SPDX-License-Identifier: GPL-2.0-or-later
"""A driver that goes away during a recording, and whether it is waited for when it comes back."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from fake_system import FakeSystem
from scripted_session import ScriptedCollector, end_of, run_session

from balloontrace.analysis.metadata import parse_driver_gaps
from balloontrace.errors import MissingProbeError
from balloontrace.format.recording import Recording, read_recording
from balloontrace.system.kernel import read_balloon_devices
from balloontrace.trace.guest.diagnosis import GuestDiagnosis
from balloontrace.trace.guest.driver_watch import DriverState, DriverWatch
from balloontrace.trace.options import TraceOptions
from balloontrace.trace.session import Ending, SessionResult

pytestmark = pytest.mark.usefixtures("signals_as_before")


class Looks(DriverWatch):
    """A driver that is what a script says, look by look; the last look stays for some, and ends it."""

    def __init__(self, *states: DriverState) -> None:
        self.state, self.left = states[0], [*states, *[states[-1]] * MORE_LOOKS]

    def look(self) -> DriverState:
        self.state = self.left.pop(0)
        if not self.left:
            self.left.append(self.state)
            os.kill(os.getpid(), signal.SIGTERM)
        return self.state


MORE_LOOKS = 3
HERE = DriverState(1, {"virtio3": 10})
UNBOUND = DriverState(1, {})
AGAIN = DriverState(1, {"virtio3": 11})
PLUGGED_AGAIN = DriverState(1, {"virtio4": 12})
UNLOADED = DriverState(None, {})
LOADED_AGAIN = DriverState(2, {"virtio3": 13})


def follow(
    tmp_path: Path,
    diagnosis: GuestDiagnosis,
    monkeypatch: pytest.MonkeyPatch,
    *states: DriverState,
    collector: ScriptedCollector | None = None,
) -> tuple[SessionResult, Recording]:
    monkeypatch.setattr("balloontrace.trace.guest.session.DriverWatch", lambda _: Looks(*states))
    with (tmp_path / "out.bt").open("wb") as file:
        collector = collector or ScriptedCollector(diagnosis)
        result = run_session(collector, diagnosis, file.fileno(), TraceOptions(duration_s=60))
    return result, read_recording(tmp_path / "out.bt")


@pytest.mark.parametrize(
    ("states", "told"),
    [
        pytest.param((HERE, HERE, UNBOUND, UNBOUND, AGAIN), ["gone", "back"], id="bound again"),
        pytest.param((HERE, AGAIN), ["back"], id="bound again between two looks"),
        pytest.param((HERE, UNBOUND, PLUGGED_AGAIN), ["gone", "back"], id="plugged again by another name"),
        pytest.param((HERE, UNBOUND, AGAIN, UNBOUND, HERE), ["gone", "back"] * 2, id="twice"),
        pytest.param((HERE, DriverState(1, {"virtio3": 10, "virtio7": 5})), [], id="one more"),
    ],
)
def test_a_driver_that_comes_back_is_waited_for(
    tmp_path: Path,
    diagnosis: GuestDiagnosis,
    monkeypatch: pytest.MonkeyPatch,
    states: tuple[DriverState, ...],
    told: list[str],
) -> None:
    result, recording = follow(tmp_path, diagnosis, monkeypatch, *states)
    assert result.ending is Ending.TERMINATED
    assert recording.complete
    assert [event["what"] for event in recording.driver_events] == told
    assert all(event["devices"] == ["virtio3"] for event in recording.driver_events)
    assert not any(event.get("reattached") for event in recording.driver_events)
    gaps = parse_driver_gaps(recording)
    assert len(gaps) == told.count("back")
    for gap in gaps:
        assert gap.last_seen_ns is not None
        assert gap.back_ns is not None
        assert gap.last_seen_ns <= (gap.gone_ns or gap.last_seen_ns) <= gap.back_ns


@pytest.mark.parametrize("last", [UNBOUND, UNLOADED])
def test_a_driver_that_stays_away_is_the_end(
    tmp_path: Path, diagnosis: GuestDiagnosis, monkeypatch: pytest.MonkeyPatch, last: DriverState
) -> None:
    result, recording = follow(tmp_path, diagnosis, monkeypatch, HERE, last)
    assert result.ending is Ending.DRIVER_GONE
    assert end_of(recording)["clean"] is False
    (gap,) = parse_driver_gaps(recording)
    assert (gap.devices, gap.back_ns) == (("virtio3",), None)


class ReattachingCollector(ScriptedCollector):
    """Can be attached again, or says why not."""

    def __init__(self, diagnosis: GuestDiagnosis, error: Exception | None = None) -> None:
        super().__init__(diagnosis)
        self.error = error
        self.reattached = 0

    def reattach(self) -> None:
        self.reattached += 1
        if self.error is not None:
            raise self.error


def test_a_module_loaded_again_is_attached_to_again(
    tmp_path: Path, diagnosis: GuestDiagnosis, monkeypatch: pytest.MonkeyPatch
) -> None:
    collector = ReattachingCollector(diagnosis)
    states = (HERE, UNLOADED, UNLOADED, LOADED_AGAIN)
    result, recording = follow(tmp_path, diagnosis, monkeypatch, *states, collector=collector)
    assert (result.ending, collector.reattached) == (Ending.TERMINATED, 1)
    (gap,) = parse_driver_gaps(recording)
    assert gap.reattached is True


@pytest.mark.parametrize("error", [MissingProbeError("tell_host is not in it any more"), OSError(1, "no")])
def test_a_module_that_cannot_be_attached_to_again_is_the_end(
    tmp_path: Path, diagnosis: GuestDiagnosis, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    collector = ReattachingCollector(diagnosis, error)
    states = (HERE, UNLOADED, LOADED_AGAIN)
    result, _ = follow(tmp_path, diagnosis, monkeypatch, *states, collector=collector)
    assert (result.ending, collector.reattached) == (Ending.DRIVER_GONE, 1)


def test_another_build_of_the_driver_is_not_taken_for_the_first(
    tmp_path: Path, diagnosis: GuestDiagnosis, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = ["A0", "B1"]
    monkeypatch.setattr("balloontrace.system.kernel.read_module_srcversion", lambda _: versions.pop(0))
    collector = ReattachingCollector(diagnosis)
    states = (HERE, UNLOADED, LOADED_AGAIN)
    result, _ = follow(tmp_path, diagnosis, monkeypatch, *states, collector=collector)
    assert (result.ending, collector.reattached) == (Ending.DRIVER_GONE, 0)


def test_the_driver_is_looked_at_where_sysfs_shows_it(tmp_path: Path, diagnosis: GuestDiagnosis) -> None:
    root = tmp_path / "other"
    system = FakeSystem(root)
    system.device("virtio3", 5, (1, 32), driver="virtio_balloon")
    loaded = system.folder("sys/module/virtio_balloon")
    found = replace(
        diagnosis,
        devices=read_balloon_devices(root),
        plan=replace(diagnosis.plan, driver_module="virtio_balloon"),
    )
    watch = DriverWatch(found, root)
    first = watch.look()
    assert watch.look() is first
    assert not watch.gone()
    (root / "sys/bus/virtio/devices/virtio3/driver").unlink()
    away = watch.look()
    assert (away.lacks(first), away.replaces(first)) == (("virtio3",), False)
    assert watch.gone()
    system.device("virtio5", 5, (1, 32), driver="virtio_balloon")
    back = watch.look()
    assert (tuple(back.bound), back.replaces(first)) == (("virtio5",), True)
    loaded.rmdir()
    assert not watch.look().replaces(first)
