# SPDX-License-Identifier: GPL-2.0-or-later
"""The objects that are compiled when the package is built: what they have, and what is asked of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import ClassVar

import pytest

from balloontrace.errors import CannotTraceError
from balloontrace.trace.engines import prebuilt
from balloontrace.trace.engines.constants import NAMES
from balloontrace.trace.engines.libbpf import BpfObject, BpfObjectError
from balloontrace.trace.engines.request import AttachError, Attachment, LoadRequest
from balloontrace.trace.engines.shipped import read_object
from balloontrace.trace.guest.probes import TABLE
from balloontrace.trace.host.probes import TABLE as HOST_TABLE
from balloontrace.trace.mechanism import Mechanism

GIVEN = dict.fromkeys(NAMES, 0)
MACHINES = ("x86_64", "aarch64")
GUEST_MAPS = {"counters", "threads"}
PROGRAMS = {
    "guest": {
        f"{mechanism.program(returns=returns)}_{point.function.symbol}"
        for point in TABLE
        for mechanism in (Mechanism.FENTRY, Mechanism.KPROBE)
        for returns in point.ends(mechanism)
    },
    "host": {
        f"{mechanism.program(returns=returns)}_{point.name}"
        for point in HOST_TABLE
        for mechanism in (
            (Mechanism.RAW_TRACEPOINT,) if point.raw_tracepoint
            else (Mechanism.FENTRY, Mechanism.KPROBE, *((Mechanism.TRACEPOINT,) if point.tracepoint else ()))
        )
        for returns in point.ends(mechanism)
    },
}  # fmt: skip
SAMPLING = {
    *(f"{end}_{point.name}" for point in HOST_TABLE if point.samples for end in ("fentry", "kprobe")),
    *(f"raw_{point.name}" for point in HOST_TABLE if point.tells_discards),
}
SAMPLED = {
    *SAMPLING,
    "fexit_eventfd_read",
    "fentry_eventfd_write",
    "kprobe_eventfd_write",
    "kprobe_kvm_vm_ioctl",
}
MAPS = {
    "guest": {"counters", "threads", "spans", "payloads"},
    "guest-live": {"counters", "threads", "live"},
    "host": {"threads", "target", "batches", "waiting", "waiting_pages"},
    "host-live": {"threads", "target", "live", "waiting", "waiting_pages"},
    "host-sampled": {"threads", "target", "batches", "timers", "faults"},
}


def opened(machine: str, name: str) -> BpfObject:
    return BpfObject(name, read_object(machine, name) or b"")


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("name", MAPS)
def test_an_object_has_every_program_and_map(machine: str, name: str) -> None:
    side, _, kind = name.partition("-")
    with opened(machine, name) as found:
        there = set(found.program_names)
        assert there >= (SAMPLED if kind == "sampled" else PROGRAMS[side] - SAMPLING)
        assert all(found.has_map(each) for each in MAPS[name])
        assert not found.has_map("nothing")


def test_constants_are_set_by_name() -> None:
    with opened("x86_64", "host") as found:
        assert {"COUNT_FREED", "FOLIO_FLAGS"} <= found.open_constants()
        with pytest.raises(KeyError):
            found.set_constants({"COUNT_FREED": 4096})
        found.set_constants(dict.fromkeys(NAMES, -1))
        assert found.open_constants() == set()


@pytest.mark.parametrize("machine", MACHINES)
def test_every_constant_is_somewhere(machine: str) -> None:
    left: set[str] = set()
    for name in (*MAPS, "guest-typed", "host-typed"):
        with opened(machine, name) as found:
            left |= found.open_constants()
    assert left == set(NAMES)


@pytest.mark.parametrize("content", [b"", b"\x7fELF and nothing more"])
def test_what_is_no_object_is_one_sentence(content: bytes) -> None:
    with pytest.raises(BpfObjectError) as raised:
        BpfObject("no", content)
    assert "\n" not in str(raised.value)


def test_without_an_object_it_cannot_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    request = LoadRequest("guest.bpf.c", {}, (), ("counters",))
    with pytest.raises(CannotTraceError, match="riscv64"):
        prebuilt.load(request)
    with pytest.raises(CannotTraceError, match="riscv64"):
        prebuilt.find()


@pytest.mark.parametrize(
    ("definitions", "name"),
    [
        ({"SPAN_RING_PAGES": 1}, "guest"),
        ({"UNIT_PAGES": 1}, "guest-live"),
        ({"BATCH_RING_PAGES": 1, "SAMPLED": 1}, "host-sampled"),
        ({"PROCESSES": 100}, "host-all-live"),
    ],
)
def test_what_is_asked_for_has_an_object_of_its_own(definitions: dict[str, str | int], name: str) -> None:
    request = LoadRequest(f"{name.partition('-')[0]}.bpf.c", definitions, (), ())
    assert prebuilt.object_name(request) == name


def test_a_required_function_of_a_module_without_types_is_refused() -> None:
    nowhere = Attachment(
        "fentry_tell_host", "tell_host", False, "fentry", "tell_host", 0, "no_such_module", True
    )
    request = LoadRequest("guest.bpf.c", {**GIVEN, "SPAN_RING_PAGES": 1}, (nowhere,), ("counters", "spans"))
    with pytest.raises(AttachError, match="no_such_module"):
        prebuilt.load(request)


class StandIn(BpfObject):
    """An object of which the kernel loads every program, and refuses to attach one."""

    refused = ""
    left_open: ClassVar[set[int]] = set()

    def load(self) -> None: ...

    def set_module_target(self, program: str, module: str, number: int) -> None: ...

    def map_fd(self, name: str) -> int:
        return self.program_fd(name)

    def program_fd(self, name: str) -> int:  # noqa: ARG002
        fd = os.memfd_create("stand-in")
        self.left_open.add(fd)
        return fd

    def attach_raw_tracepoint(self, program: str, event: str | None) -> int:  # noqa: ARG002
        if program == self.refused:
            raise BpfObjectError("it is not to be had")
        return self.program_fd(program)


@pytest.mark.parametrize("refused", ["kprobe", "kretprobe"])
def test_neither_end_of_a_function_is_left_alone(monkeypatch: pytest.MonkeyPatch, refused: str) -> None:
    monkeypatch.setattr(prebuilt, "BpfObject", StandIn)
    monkeypatch.setattr(StandIn, "refused", f"{refused}_virtballoon_migratepage")
    ends = tuple(
        Attachment(f"{program}_{name}", name, program == "kretprobe", "raw_tracepoint", name, 0, "", False)
        for name in ("tell_host", "virtballoon_migratepage")
        for program in ("kretprobe", "kprobe")
    )
    loaded = prebuilt.load(LoadRequest("guest.bpf.c", {**GIVEN, "SPAN_RING_PAGES": 1}, ends, ("counters",)))
    fds = [*loaded.maps.values(), *loaded.programs.values(), *loaded.links]
    assert list(loaded.failures) == ["virtballoon_migratepage"]
    assert (list(loaded.programs), len(loaded.links)) == (["kretprobe_tell_host", "kprobe_tell_host"], 2)
    for fd in fds:
        os.close(fd)
    assert not [fd for fd in StandIn.left_open if Path(f"/proc/self/fd/{fd}").exists()]
