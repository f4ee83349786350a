# SPDX-License-Identifier: GPL-2.0-or-later
"""What `doctor` finds on machines of many kinds, each built below a folder."""

from __future__ import annotations

import platform
import shutil
from pathlib import Path

import pytest
from fake_system import DRIVER, STOCK_SYMBOLS, FakeSystem, lay_out_bcc, lay_out_foreign_bcc

from balloontrace.format.vocabulary import DriverKind, Function, Status
from balloontrace.system.kernel import Layout
from balloontrace.trace.engines.choose import Engine
from balloontrace.trace.engines.libbpf import _library
from balloontrace.trace.guest.diagnosis import GuestDiagnosis, diagnose
from balloontrace.trace.machine_checks import Finding, State

RELEASE = platform.release()


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSystem:
    """A system that can be traced, with a bcc that is there and never imported."""
    monkeypatch.syspath_prepend(lay_out_bcc(tmp_path / "python", init="raise AssertionError('imported')"))
    return FakeSystem(tmp_path / "root")


def finding(diagnosis: GuestDiagnosis, name: str) -> Finding:
    (found,) = [candidate for candidate in diagnosis.findings if candidate.name == name]
    return found


def only_problem(system: FakeSystem, engine: str = "bcc") -> Finding:
    (found,) = diagnose(system.root, engine=engine).problems
    return found


def with_symbols(
    system: FakeSystem, *more: str, but: str = "no such name", engine: str = "auto"
) -> GuestDiagnosis:
    system.kallsyms([*(line for line in STOCK_SYMBOLS if but not in line), *more])
    return diagnose(system.root, engine=engine)


def test_a_system_that_can_be_traced(system: FakeSystem) -> None:
    diagnosis = diagnose(system.root)
    assert diagnosis.problems == ()
    # No type information was written: that is a loss, not an obstacle.
    assert [found.name for found in diagnosis.warnings] == ["btf"]
    assert diagnosis.driver_kind is DriverKind.STOCK
    assert finding(diagnosis, "driver").text == "stock driver, module virtio_balloon"
    assert finding(diagnosis, "device").text == "virtio3 (virtio_balloon): STATS_VQ, VERSION_1"
    assert finding(diagnosis, "bcc").text == "bcc 0.31.0"
    assert diagnosis.plan.probe(Function.FILL_BALLOON).status is Status.INLINED


def test_offsets_from_the_user_stand_in_for_type_information(system: FakeSystem) -> None:
    pages, queue = {"virtio_balloon.num_pfns": 312}, {"virtqueue.index": 48}
    texts = [
        finding(diagnose(system.root, offsets=offsets), "btf").text.partition(" of a send")[0]
        for offsets in ({}, pages, queue)
    ]
    assert texts == ["pages and queue", "queue", "pages"]
    told = diagnose(system.root, offsets=pages | queue)
    assert told.warnings == ()
    assert finding(told, "btf").text == "structure offsets: command line"


def test_type_information_without_a_member_is_not_called_missing(
    system: FakeSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = Layout({"virtqueue.index": 48, "virtio_balloon.pfns": 316}, source="btf")
    monkeypatch.setattr("balloontrace.system.kernel.read_layout", lambda *_: layout)
    said = "pages of a send are not measured: the type information does not have virtio_balloon.num_pfns"
    assert finding(diagnose(system.root), "btf").text == said


def test_an_empty_machine_names_every_problem_and_never_raises(tmp_path: Path) -> None:
    diagnosis = diagnose(tmp_path, engine="bcc")
    assert {"privilege", "kernel", "symbols", "headers", "device", "driver"} <= {
        found.name for found in diagnosis.problems
    }
    assert all(found.fix for found in diagnosis.problems)
    assert diagnosis.driver_kind is DriverKind.NONE


def test_no_device(system: FakeSystem) -> None:
    shutil.rmtree(system.root / "sys/bus/virtio/devices/virtio3")
    found = only_problem(system)
    assert found.name == "device"
    assert "no virtio balloon" in found.text
    assert "virtio-balloon-pci" in (found.fix or "")


def test_size_and_target(system: FakeSystem) -> None:
    found = finding(diagnose(system.root), "size")
    assert found.text == "virtio3: 8.00 KiB of target - (from /proc/vmstat)"
    system.write("proc/vmstat", "nr_free_pages 1\n")
    assert "virtio3: - of target - (from nowhere" in finding(diagnose(system.root), "size").text


def test_no_driver(system: FakeSystem) -> None:
    system.kallsyms(line for line in STOCK_SYMBOLS if DRIVER not in line)
    system.device("virtio3", 5, (1,), driver=None)
    found = only_problem(system)
    assert found.sentence == "the balloon driver is not loaded: modprobe virtio_balloon"
    assert "virtio3 (no driver)" in finding(diagnose(system.root), "device").text


def test_no_headers(system: FakeSystem) -> None:
    shutil.rmtree(system.root / "lib")
    found = only_problem(system)
    assert found.name == "headers"
    assert f"linux-headers-{RELEASE}" in (found.fix or "")
    assert f"kernel-devel-{RELEASE}" in (found.fix or "")
    # Archives drop those of older kernels while the kernels are still in use.
    assert "where the archive has none of this kernel any more" in (found.fix or "")


@pytest.mark.parametrize("mask", [0, 1 << 39, 1 << 38, 0x1FFFFFFFFFF & ~(1 << 21 | 1 << 38)])
def test_no_privilege(system: FakeSystem, mask: int) -> None:
    system.capabilities(mask)
    assert only_problem(system).sentence == "this user may not load BPF programs: run it with sudo"


@pytest.mark.parametrize("mask", [1 << 21, 1 << 38 | 1 << 39])
def test_enough_privilege(system: FakeSystem, mask: int) -> None:
    system.capabilities(mask)
    assert finding(diagnose(system.root), "privilege").state is State.OK


def test_lockdown(system: FakeSystem) -> None:
    system.write("sys/kernel/security/lockdown", "none [integrity] confidentiality\n")
    assert diagnose(system.root).problems == ()
    system.write("sys/kernel/security/lockdown", "none integrity [confidentiality]\n")
    assert "confidentiality" in only_problem(system).text
    assert "confidentiality" in only_problem(system, "prebuilt").text
    typed = with_symbols(system, "ffffffff81000800 T bpf_rdonly_cast")
    assert typed.problems == ()
    assert "fentry alone" in finding(typed, "lockdown").text


def test_kernel_without_kprobes(system: FakeSystem) -> None:
    (system.root / "sys/bus/event_source/devices/kprobe").rmdir()
    assert diagnose(system.root).problems == ()
    found = with_symbols(system, but="bpf_trampoline_link_prog").problems
    assert [each.name for each in found] == ["kernel"]
    assert "neither kprobes nor BPF trampolines" in found[0].text


def test_kernel_without_ring_buffer(system: FakeSystem) -> None:
    (found,) = with_symbols(system, but="bpf_ringbuf_reserve").problems
    assert "no BPF ring buffer" in found.text


def test_hidden_addresses_are_a_warning(system: FakeSystem) -> None:
    system.kallsyms("0" * 16 + line[16:] for line in STOCK_SYMBOLS)
    diagnosis = diagnose(system.root)
    assert diagnosis.problems == ()
    assert finding(diagnosis, "symbols").state is State.WARNING
    assert "kptr_restrict" in finding(diagnosis, "symbols").sentence


# ---- engines ----


def test_what_the_other_engine_lacks_is_not_needed(system: FakeSystem) -> None:
    shutil.rmtree(system.root / "lib")
    diagnosis = diagnose(system.root)
    assert diagnosis.problems == ()
    assert diagnosis.engines == (Engine.PREBUILT,)
    assert finding(diagnosis, "prebuilt").text.startswith("BPF programs compiled for ")
    assert finding(diagnosis, "headers").text == f"not needed: no kernel headers for {RELEASE}"


def test_without_libbpf_the_engine_is_bcc(system: FakeSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("balloontrace.system.libbpf.LIBBPF", "libbpf.so.none")
    _library.cache_clear()
    diagnosis = diagnose(system.root)
    assert diagnosis.problems == ()
    assert diagnosis.engines == (Engine.BCC,)
    assert "install libbpf1" in finding(diagnosis, "prebuilt").text
    assert only_problem(system, "prebuilt").name == "prebuilt"
    assert {found.name for found in diagnose(system.root, engine="bcc").findings}.isdisjoint({"prebuilt"})


def test_no_engine_names_what_each_lacks(system: FakeSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("balloontrace.system.libbpf.LIBBPF", "libbpf.so.none")
    _library.cache_clear()
    shutil.rmtree(system.root / "lib")
    assert [found.name for found in diagnose(system.root).problems] == ["prebuilt", "headers"]


# ---- bcc ----


def bare_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, python: Path | None) -> FakeSystem:
    """A system whose only packages called bcc are those in `python`."""
    monkeypatch.setattr("sys.path", [str(python)] if python else [])
    return FakeSystem(tmp_path / "root")


def test_no_bcc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = only_problem(bare_system(tmp_path, monkeypatch, None))
    assert "not installed for this python3" in found.text
    assert "python3-bpfcc" in (found.fix or "")


def test_foreign_bcc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = lay_out_foreign_bcc(tmp_path / "python")
    found = only_problem(bare_system(tmp_path, monkeypatch, python))
    assert "is not the BPF Compiler Collection" in found.text
    assert "python3-bpfcc" in (found.fix or "")


def test_a_folder_that_happens_to_be_called_bcc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "python/bcc").mkdir(parents=True)
    found = only_problem(bare_system(tmp_path, monkeypatch, tmp_path / "python"))
    assert found.name == "bcc"


def test_bcc_of_unknown_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = lay_out_bcc(tmp_path / "python")
    (python / "bcc/version.py").unlink()
    diagnosis = diagnose(bare_system(tmp_path, monkeypatch, python).root)
    assert finding(diagnosis, "bcc").text == "bcc of unknown version"
    assert diagnosis.problems == ()


# ---- the driver ----


def test_patched_driver_by_its_symbol(system: FakeSystem) -> None:
    diagnosis = with_symbols(system, f"ffffffffc0400700 t send_resp_data\t[{DRIVER}]")
    assert diagnosis.driver_kind is DriverKind.PATCHED
    assert finding(diagnosis, "driver").text == "patched driver, module virtio_balloon"


@pytest.mark.parametrize(
    ("bits", "symbol", "warned"), [((1, 3), True, True), ((1,), True, False), ((1, 3), False, False)]
)
def test_bit_3_means_two_things(
    system: FakeSystem, bits: tuple[int, ...], symbol: bool, warned: bool
) -> None:
    system.device("virtio3", 5, bits, driver=DRIVER)
    diagnosis = with_symbols(system, *([f"ffffffffc0400700 t send_resp_data\t[{DRIVER}]"] if symbol else []))
    assert ("bit 3" in {found.name for found in diagnosis.warnings}) is warned


def test_patched_driver_by_its_member(system: FakeSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = Layout({"virtio_balloon.resp_data": 400}, source="btf")
    monkeypatch.setattr("balloontrace.system.kernel.read_layout", lambda *_: layout)
    assert diagnose(system.root).driver_kind is DriverKind.PATCHED


def test_bit_3_says_nothing_about_the_driver(system: FakeSystem) -> None:
    system.device("virtio3", 5, (1, 3, 32), driver=DRIVER)
    assert diagnose(system.root).driver_kind is DriverKind.STOCK


def test_built_in_driver(system: FakeSystem) -> None:
    system.kallsyms(line.partition("\t")[0].replace("ffffffffc04", "ffffffff81b") for line in STOCK_SYMBOLS)
    diagnosis = diagnose(system.root)
    assert finding(diagnosis, "driver").text == "stock driver, built in"
    assert diagnosis.problems == ()


@pytest.mark.parametrize("name", ["tell_host"])
def test_required_function_missing(system: FakeSystem, name: str) -> None:
    diagnosis = with_symbols(system, but=f"t {name}\t")
    assert diagnosis.problems == ()
    found = finding(diagnosis, "probes")
    assert found.state is State.WARNING
    assert name in found.text
    assert "--missing-probes warn" in (found.fix or "")


def test_target_not_measured(system: FakeSystem) -> None:
    found = finding(with_symbols(system, but="vp_get"), "probes")
    assert (found.state, "neither vp_get nor vm_get" in found.text) == (State.WARNING, True)


@pytest.mark.parametrize(
    ("bcc", "symbols", "expected"),
    [
        ("0.31.0", "", "fentry"),
        ("0.28.0", "", "fentry"),
        ("0.26.0", "", "kprobe"),
        ("0.31.0", "bpf_trampoline_link_prog", "kprobe"),
        (None, "", "fentry"),  # what would be attached if there was one
        (None, "bpf_trampoline_link_prog", "kprobe"),
    ],
)
def test_fentry_needs_kernel_and_bcc(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bcc: str | None, symbols: str, expected: str
) -> None:
    monkeypatch.setattr("sys.path", [str(lay_out_bcc(tmp_path / "python", bcc))] if bcc else [])
    layout = Layout({}, frozenset({"tell_host"}), source="btf")
    monkeypatch.setattr("balloontrace.system.kernel.read_layout", lambda *_: layout)
    diagnosis = with_symbols(FakeSystem(tmp_path / "root"), but=symbols or "no such name", engine="bcc")
    assert diagnosis.plan.probe(Function.TELL_HOST).mechanism == expected


def test_ways_of_giving_pages_that_are_not_traced(system: FakeSystem) -> None:
    system.device("virtio3", 5, (3, 5, 32), driver=DRIVER)
    system.device("virtio4", 5, (1, 5, 32), driver=DRIVER)
    system.device("virtio5", 5, (5, 32), driver=None)
    found = finding(diagnose(system.root), "untraced")
    assert found.state is State.WARNING
    assert found.text == (
        "not traced: free page reporting of virtio3 (REPORTING), free page hinting of virtio3 "
        "(FREE_PAGE_HINT), free page reporting of virtio4 (REPORTING)"
    )


def test_bit_3_of_the_patched_driver_is_no_hinting(system: FakeSystem) -> None:
    system.device("virtio3", 5, (3, 32), driver=DRIVER)
    diagnosis = with_symbols(system, "ffffffffc0400700 t send_resp_data\t[virtio_balloon]")
    assert diagnosis.driver_kind is DriverKind.PATCHED
    assert "untraced" not in {found.name for found in diagnosis.findings}


def test_virtio_mem_is_named_and_said_to_be_untraced(system: FakeSystem) -> None:
    assert "virtio-mem" not in {finding.name for finding in diagnose(system.root).findings}
    for name in ("virtio7", "virtio6"):
        system.device(name, 24, (), driver=None)
    found = diagnose(system.root)
    said = next(finding for finding in found.findings if finding.name == "virtio-mem")
    assert (said.state, said.text) == (
        State.WARNING,
        "not traced: memory plugged and unplugged by virtio6 and virtio7",
    )
    assert found.describe()["virtio_mem"] == ["virtio6", "virtio7"]
    assert [device.name for device in found.devices] == ["virtio3"]
