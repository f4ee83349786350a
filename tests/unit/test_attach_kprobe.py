# SPDX-License-Identifier: GPL-2.0-or-later
"""What is asked of the kernel to attach a program once more; that it runs is tested in a guest."""

from __future__ import annotations

import errno
import struct
from pathlib import Path

import pytest
from fake_system import FakeSystem

from balloontrace.system import attach_kprobe, perf_event


@pytest.fixture
def root(tmp_path: Path) -> Path:
    system = FakeSystem(tmp_path)
    system.write("sys/bus/event_source/devices/kprobe/type", "8\n")
    system.write("sys/bus/event_source/devices/kprobe/format/retprobe", "config:0\n")
    return tmp_path


@pytest.mark.parametrize("returns", [False, True])
def test_the_event_names_the_address(root: Path, monkeypatch: pytest.MonkeyPatch, returns: bool) -> None:
    asked: list[bytes] = []
    calls: list[tuple[int, int, int]] = []

    def remember(attribute: bytes, _pid: int, _cpu: int) -> int:
        asked.append(attribute)
        return 77

    monkeypatch.setattr(perf_event, "_perf_event_open", remember)
    monkeypatch.setattr("fcntl.ioctl", lambda *arguments: calls.append(arguments))
    assert attach_kprobe.attach_kprobe(5, 0xFFFFFFFFC0400010, returns=returns, root=root) == 77
    (attribute,) = asked
    # perf_event_attr: type, size and config; config2, which is kprobe_addr, at byte 64.
    assert struct.unpack_from("=IIQ", attribute) == (8, 72, int(returns))
    assert struct.unpack_from("=QQ", attribute, 56) == (0, 0xFFFFFFFFC0400010)
    assert [(fd, value) for fd, _, value in calls] == [(77, 5), (77, 0)]


def test_what_the_kernel_refuses_leaves_nothing_open(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[int] = []

    def refuse(*_: int) -> None:
        raise OSError(errno.EINVAL, "no")

    monkeypatch.setattr(perf_event, "_perf_event_open", lambda *_: 77)
    monkeypatch.setattr("fcntl.ioctl", refuse)
    monkeypatch.setattr("os.close", closed.append)
    with pytest.raises(OSError, match="no"):
        attach_kprobe.attach_kprobe(5, 1, returns=False, root=root)
    assert closed == [77]


def test_a_kernel_without_such_events_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="kprobe"):
        attach_kprobe.attach_kprobe(5, 1, returns=False, root=tmp_path)
