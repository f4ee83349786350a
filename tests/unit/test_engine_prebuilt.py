# SPDX-License-Identifier: GPL-2.0-or-later
"""The objects that are compiled when the package is built: what they have, and what is asked of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from balloontrace.errors import CannotTraceError
from balloontrace.trace.engines import prebuilt
from balloontrace.trace.engines.bcc import bpf_folder
from balloontrace.trace.engines.libbpf import BpfObject, BpfObjectError
from balloontrace.trace.engines.request import AttachError, Attachment, LoadRequest
from balloontrace.trace.guest.probes import TABLE
from balloontrace.trace.host.probes import TABLE as HOST_TABLE
from balloontrace.trace.mechanism import Mechanism

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
MAPS = {
    "guest": {"counters", "threads", "spans", "payloads"},
    "guest-live": {"counters", "threads", "live"},
    "host": {"threads", "batches", "waiting", "waiting_pages"},
    "host-live": {"threads", "live", "waiting", "waiting_pages"},
}


def opened(machine: str, name: str) -> BpfObject:
    return BpfObject(bpf_folder() / "objects" / machine / f"{name}.bpf.o")


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("name", MAPS)
def test_an_object_has_every_program_and_map(machine: str, name: str) -> None:
    with opened(machine, name) as found:
        assert PROGRAMS[name.removesuffix("-live")] <= set(found.program_names)
        assert all(found.has_map(each) for each in MAPS[name])
        assert not found.has_map("nothing")


def test_constants_are_set_by_name() -> None:
    with opened("x86_64", "host") as found:
        assert {"TGID", "COUNT_FREED", "FOLIO_FLAGS"} <= set(found.constant_names())
        found.set_constants({"TGID": 1234, "COUNT_FREED": 4096})
        with pytest.raises(KeyError):
            found.set_constants({"UNKNOWN": 1})


def test_what_is_no_object_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "no.bpf.o").write_bytes(b"\x7fELF and nothing more")
    with pytest.raises(BpfObjectError) as raised:
        BpfObject(tmp_path / "no.bpf.o")
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
    [({"SPAN_RING_PAGES": 1}, "guest.bpf.o"), ({"UNIT_PAGES": 1}, "guest-live.bpf.o")],
)
def test_without_a_ring_it_is_the_object_with_sums(definitions: dict[str, str | int], name: str) -> None:
    request = LoadRequest("guest.bpf.c", definitions, (), ())
    assert prebuilt.object_path(request).name == name


def test_a_required_function_of_a_module_without_types_is_refused() -> None:
    nowhere = Attachment(
        "fentry_tell_host", "tell_host", False, "fentry", "tell_host", 0, "no_such_module", True
    )
    request = LoadRequest("guest.bpf.c", {"SPAN_RING_PAGES": 1}, (nowhere,), ("counters", "spans"))
    with pytest.raises(AttachError, match="no_such_module"):
        prebuilt.load(request)
