# SPDX-License-Identifier: GPL-2.0-or-later
"""Probes that are attached and do not run: what doctor says of them, and what record does."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_system import STOCK_SYMBOLS, FakeSystem, lay_out_bcc

from balloontrace.errors import CannotTraceError
from balloontrace.system.kernel import Layout, Symbol
from balloontrace.system.vmm import choose_process
from balloontrace.trace.attach import hold_to_problems, make_sure_of_plan
from balloontrace.trace.guest.diagnosis import diagnose
from balloontrace.trace.guest.plan import GuestPlan, make_plan
from balloontrace.trace.host.diagnosis import diagnose_host
from balloontrace.trace.host.side import HostSide
from balloontrace.trace.machine_checks import Finding, State, check_firing
from balloontrace.trace.mechanism import Mechanism
from balloontrace.trace.options import TraceOptions
from balloontrace.trace.probe_firing import find_firing
from balloontrace.trace.probe_trial import Trial, try_probes

FENTRY, KPROBE = Mechanism.FENTRY, Mechanism.KPROBE
BOTH_RUN = Trial({FENTRY: True, KPROBE: True})
FTRACE_OFF, KPROBES_OFF = "proc/sys/kernel/ftrace_enabled", "sys/kernel/debug/kprobes/enabled"


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSystem:
    monkeypatch.syspath_prepend(lay_out_bcc(tmp_path / "python"))
    return FakeSystem(tmp_path / "root")


def stock_plan(*, fentry: bool) -> GuestPlan:
    """Of the stock driver; where fentry is possible, config_get has a kprobe too."""
    words = [line.split() for line in STOCK_SYMBOLS]
    symbols = [Symbol(each[2], int(each[0], 16), "".join(each[3:]).strip("[]")) for each in words]
    names = (
        frozenset({"update_balloon_size_func", "tell_host", "leak_balloon"}) if fentry else frozenset[str]()
    )
    return make_plan(symbols, Layout({"virtio_balloon.num_pages": 1}), fentry_functions=frozenset(names))


def finding(root: Path, trial: Trial | None, *, fentry: bool = True) -> Finding | None:
    firing = find_firing(root, None if trial is None else lambda _: trial)
    return check_firing(firing, stock_plan(fentry=fentry and FENTRY not in firing.unusable).attachable)


def text_of(found: Finding | None) -> tuple[State, str]:
    assert found is not None
    return found.state, found.sentence


def test_nothing_is_said_where_nothing_is_known(tmp_path: Path) -> None:
    assert finding(tmp_path, None) is None


def test_what_was_seen_to_run(system: FakeSystem) -> None:
    assert text_of(finding(system.root, BOTH_RUN)) == (State.OK, "tried, and ran: fentry, kprobe")


@pytest.mark.parametrize("trial", [None, Trial({FENTRY: False, KPROBE: False})])
def test_ftrace_is_off(system: FakeSystem, trial: Trial | None) -> None:
    system.write(FTRACE_OFF, "0\n")
    state, text = text_of(finding(system.root, trial))
    assert state is State.PROBLEM
    assert text.startswith(
        "kernel.ftrace_enabled is 0, so required probes would not run: update_balloon_size"
    )
    assert text.endswith("tell_host: sysctl kernel.ftrace_enabled=1")


def test_ftrace_is_off_where_kprobes_need_none(system: FakeSystem) -> None:
    """As on architectures without KPROBES_ON_FTRACE: they take the place of fentry."""
    system.write(FTRACE_OFF, "0\n")
    state, text = text_of(finding(system.root, Trial({FENTRY: False, KPROBE: True})))
    assert (state, text) == (
        State.WARNING,
        "kernel.ftrace_enabled is 0, so not every kind of probe runs: sysctl kernel.ftrace_enabled=1",
    )


@pytest.mark.parametrize("trial", [None, Trial({FENTRY: True, KPROBE: False})])
def test_kprobes_are_disarmed(system: FakeSystem, trial: Trial | None) -> None:
    system.write(KPROBES_OFF, "0\n")
    state, text = text_of(finding(system.root, trial))
    assert state is State.WARNING
    assert text.startswith("kprobes are disarmed (/sys/kernel/debug/kprobes/enabled is 0), so not all probes")
    assert "config_get" in text
    assert "tell_host" not in text
    assert text.endswith(": echo 1 > /sys/kernel/debug/kprobes/enabled")
    state, text = text_of(finding(system.root, trial, fentry=False))
    assert (state, "tell_host" in text) == (State.PROBLEM, True)


def test_both_switches_are_off(system: FakeSystem) -> None:
    for path in (FTRACE_OFF, KPROBES_OFF):
        system.write(path, "0\n")
    _, text = text_of(finding(system.root, None))
    assert text.startswith("kernel.ftrace_enabled is 0 and kprobes are disarmed (")
    assert text.endswith("sysctl kernel.ftrace_enabled=1 and echo 1 > /sys/kernel/debug/kprobes/enabled")


def test_silent_for_a_reason_nobody_knows(system: FakeSystem) -> None:
    state, text = text_of(finding(system.root, Trial({FENTRY: False, KPROBE: False})))
    assert state is State.PROBLEM
    assert text.startswith("a probe that was tried did not run, so required probes would not run: ")


def test_refused(system: FakeSystem) -> None:
    denied = Trial(refused={FENTRY: "Operation not permitted", KPROBE: "Permission denied"})
    state, text = text_of(finding(system.root, denied))
    assert state is State.PROBLEM
    assert "the kernel refuses kprobe probes (Permission denied)" in text
    # A kernel without direct calls: kprobes do all of it, and nothing is wrong.
    state, text = text_of(finding(system.root, Trial({KPROBE: True}, {FENTRY: "Unknown error 524"})))
    assert (state, text) == (
        State.OK, "tried, and ran: kprobe; the kernel refuses fentry probes (Unknown error 524)"
    )  # fmt: skip


def test_switches_that_are_on(system: FakeSystem) -> None:
    for path in (FTRACE_OFF, KPROBES_OFF):
        system.write(path, "1\n")
    assert finding(system.root, None) is None


# ---- what doctor and record make of it ----


def test_doctor_and_record_agree(system: FakeSystem) -> None:
    system.write(FTRACE_OFF, "0\n")
    diagnosis, on_host = diagnose(system.root), diagnose_host(system.root)
    assert [found.name for found in diagnosis.problems] == ["firing"]
    assert "firing" in {found.name for found in (*diagnosis.problems, *on_host.problems, *on_host.warnings)}
    with pytest.raises(CannotTraceError, match=r"cannot trace here: kernel.ftrace_enabled is 0"):
        hold_to_problems(diagnosis)


def test_a_way_that_would_not_run_is_refused(system: FakeSystem) -> None:
    """By fentry it would; the user has asked for the other."""
    system.write(KPROBES_OFF, "0\n")
    system.kallsyms(["ffffffff81000000 T __x64_sys_madvise", "ffffffff81000100 T __x64_sys_fallocate"])
    on_host = diagnose_host(system.root, trial=lambda _: Trial({FENTRY: True, KPROBE: False}))
    with pytest.raises(CannotTraceError, match=r"kprobes are disarmed .* madvise, fallocate"):
        make_sure_of_plan(HostSide(TraceOptions(attach="kprobe")), on_host)
    make_sure_of_plan(HostSide(TraceOptions(attach="tracepoint")), on_host)


def test_nothing_is_tried_on_another_system_than_this(system: FakeSystem) -> None:
    assert "firing" not in {found.name for found in diagnose(system.root).findings}


def test_where_nothing_can_be_tried_nothing_is(tmp_path: Path) -> None:
    """No type information, no kprobes: neither is in the answer."""
    assert try_probes(tmp_path) == Trial()


def test_the_program_is_six_instructions() -> None:
    from balloontrace.trace.probe_trial import _counting

    opcodes = [code for code, *_ in _counting(9)]
    assert opcodes == [0x18, 0, 0xB7, 0xDB, 0xB7, 0x95]


def test_few_capabilities_take_kprobes_and_refuse_where_those_are_refused(system: FakeSystem) -> None:
    """Without CAP_SYS_ADMIN nothing finds a module's functions for fentry."""
    system.capabilities(1 << 38 | 1 << 39)
    denied = Trial({FENTRY: True}, {KPROBE: "Permission denied"})
    refused = diagnose(system.root, trial=lambda _: denied)
    (problem,) = refused.problems
    assert problem.text.startswith("the kernel refuses kprobe probes (Permission denied), so required probes")
    allowed = diagnose(system.root, trial=lambda _: BOTH_RUN)
    assert allowed.problems == ()
    assert {mechanism for row in allowed.plan.attachable for mechanism in row.mechanisms} == {KPROBE}


@pytest.mark.parametrize(("module", "said"), [("\t[kvm]", "module kvm is loaded"), ("", "kvm is built in")])
def test_kvm_is_a_module_or_built_in(system: FakeSystem, module: str, said: str) -> None:
    system.kallsyms([f"ffffffffc0500000 t kvm_vm_ioctl{module}"])
    assert said in {found.text for found in diagnose_host(system.root).findings}


def test_processes_with_numbers_of_their_own_are_told_beforehand(system: FakeSystem) -> None:
    link = system.folder("proc/self/ns") / "pid"
    link.symlink_to("pid:[4026532999]")
    (found,) = [each for each in diagnose_host(system.root).problems if each.name == "processes"]
    with pytest.raises(CannotTraceError) as refused:
        choose_process(1, (), system.root)
    assert str(refused.value) == found.sentence
