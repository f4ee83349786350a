# SPDX-License-Identifier: GPL-2.0-or-later
"""The host's probe plan for kernels of many kinds, and what it asks the attacher for."""

from __future__ import annotations

import os

import pytest

from balloontrace.errors import CannotTraceError
from balloontrace.format.vocabulary import Status
from balloontrace.system.kernel import Symbol
from balloontrace.trace.attach import make_sure_of_plan
from balloontrace.trace.engines.request import Loaded
from balloontrace.trace.host.collector import host_definitions, in_order_of_detaching
from balloontrace.trace.host.diagnosis import HostDiagnosis
from balloontrace.trace.host.probes import SYMBOL_NAMES, HostPlan, make_host_plan
from balloontrace.trace.host.sampling import define_ways
from balloontrace.trace.host.side import HostSide
from balloontrace.trace.options import TraceOptions
from balloontrace.trace.probe_firing import NOTHING_KNOWN

X86 = tuple(name for name in SYMBOL_NAMES if "arm64" not in name)
SYMBOLS = tuple(
    Symbol(name, 0x81000000 + 16 * place, "kvm" if name.startswith("kvm") else "")
    for place, name in enumerate(X86)
)

PAGES = {"FOLIO_FLAGS": 0, "PG_LRU": 5}


def programs(plan: HostPlan) -> list[str]:
    return [attachment.program for attachment in plan.attachments]


def without(*names: str) -> tuple[Symbol, ...]:
    return tuple(symbol for symbol in SYMBOLS if symbol.name not in names)


def test_fentry_takes_the_fewest_programs() -> None:
    plan = make_host_plan(SYMBOLS, fentry_functions=frozenset(X86))
    assert programs(plan) == [
        *("fexit_madvise", "fentry_madvise", "fexit_process_madvise", "fentry_process_madvise"),
        *("fexit_fallocate", "fentry_fallocate", "fexit_eventfd_read", "fentry_eventfd_write"),
        *("fexit_kvm_vcpu_ioctl", "kprobe_kvm_vm_ioctl", "fentry_split_huge_pmd"),
        *("fexit_handle_mm_fault", "fentry_handle_mm_fault", "fexit_do_huge_pmd_anonymous_page"),
        *("kretprobe_do_set_pmd", "fentry_hugetlb_fault"),
    ]
    assert plan.missing_required == ()
    assert plan.probe("madvise").spelled_out == "fentry+fexit"


def test_kprobes_need_the_entry_of_a_vcpu_ioctl() -> None:
    plan = make_host_plan(SYMBOLS)
    assert "kretprobe_kvm_vcpu_ioctl" in programs(plan)
    assert "kprobe_kvm_vcpu_ioctl" in programs(plan)
    assert programs(plan) == programs(make_host_plan(SYMBOLS, fentry_functions=frozenset(X86)).with_kprobes())


def test_tracepoints_stand_in_for_system_calls() -> None:
    plan = make_host_plan(without("__x64_sys_madvise"))
    (leave, enter) = plan.probe("madvise").attachments
    assert (enter.program, enter.symbol) == ("enter_madvise", "syscalls:sys_enter_madvise")
    assert (leave.program, leave.symbol) == ("exit_madvise", "syscalls:sys_exit_madvise")
    assert plan.probe("fallocate").mechanism == "kprobe"
    everywhere = make_host_plan(SYMBOLS).with_tracepoints()
    assert everywhere.probe("eventfd_read").mechanism == "kprobe"
    assert [program for program in programs(everywhere) if program.startswith(("enter", "exit"))] == [
        *("exit_madvise", "enter_madvise", "exit_process_madvise", "enter_process_madvise"),
        *("exit_fallocate", "enter_fallocate"),
    ]


def test_what_tells_calls_that_freed_nothing_is_attached_on_request() -> None:
    plan = make_host_plan(SYMBOLS, fentry_functions=frozenset(X86), page_layout=PAGES)
    assert host_definitions(plan, 4096)["COUNT_FREED"] == 0
    assert plan.freed_by({}) is None
    assert {probe.point.name: probe.status for probe in plan.probes}["remove_rmap"] is Status.NOT_NEEDED
    counting = plan.counting_freed()
    assert programs(counting) == [
        *programs(plan), "raw_mm_page_free", "fentry_remove_rmap", "fentry_truncate_folio",
        "fentry_delete_batch",
    ]  # fmt: skip
    definitions = host_definitions(counting, 4096)
    assert definitions["COUNT_FREED"] == os.sysconf("SC_PAGE_SIZE")
    assert (definitions["PG_LRU"], definitions["KIND_mm_page_free"]) == (5, "raw_tracepoint")
    assert counting.freed_by({}) == "mm_page_free or remove_rmap or truncate_folio or delete_batch"
    assert counting.freed_by({"remove_rmap": "refused"}) is None
    assert counting.with_kprobes().freed_by({}) == counting.freed_by({})
    (attachment,) = counting.with_tracepoints().probe("mm_page_free").attachments
    assert (attachment.mechanism, attachment.symbol) == ("raw_tracepoint", "kmem:mm_page_free")
    older = make_host_plan(without("folio_remove_rmap_ptes"), page_layout=PAGES).counting_freed()
    assert older.freed_by({}) == "mm_page_free or remove_rmap or truncate_folio or delete_batch"
    assert older.probe("remove_rmap").where == "page_remove_rmap"


@pytest.mark.parametrize(
    ("missing", "layout"),
    [
        (("truncate_inode_folio", "truncate_inode_page"), True),
        (("__traceiter_mm_page_free", "__bpf_trace_mm_page_free"), True),
        ((), False),
    ],
)
def test_what_became_free_is_counted_rightly_or_not_at_all(
    missing: tuple[str, ...], layout: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = make_host_plan(without(*missing), page_layout=PAGES if layout else None)
    counting = plan.counting_freed()
    assert counting.asks_freed
    assert not plan.asks_freed
    assert programs(counting) == programs(plan)
    assert counting.freed_by({}) is None
    assert host_definitions(counting, 4096)["COUNT_FREED"] == 0
    absent = counting.lacking_freed
    assert len(absent) == (1 if layout else 4)
    assert layout or {probe.note for probe in absent} == {"no type information on the pages of this kernel"}
    diagnosis = HostDiagnosis((), plan, NOTHING_KNOWN, (), ())
    make_sure_of_plan(HostSide(TraceOptions()), diagnosis)
    assert capsys.readouterr().err == ""
    assert make_sure_of_plan(HostSide(TraceOptions(count_freed=True)), diagnosis) == counting
    said = capsys.readouterr().err
    assert said.startswith("balloontrace: warning: what calls free is not counted: no probe of ")
    assert said.count("\n") == 1


def test_samples_need_no_probe_of_calls() -> None:
    plan = make_host_plan(SYMBOLS, fentry_functions=frozenset(X86)).sampling(
        define_ways({"do_syscall_64": (7, 9)})
    )
    assert programs(plan) == [
        "fexit_eventfd_read", "fentry_eventfd_write", "kprobe_kvm_vm_ioctl", "fentry_split_huge_pmd",
        "fentry_hrtimer_interrupt", "fentry_kvm_send_userspace_msi",
    ]  # fmt: skip
    assert plan.probe("madvise").status is Status.NOT_NEEDED
    with_faults = make_host_plan(SYMBOLS, fentry_functions=frozenset(X86)).sampling(
        define_ways({"do_syscall_64": (7, 9)}), time_faults=True
    )
    assert {name.partition("_")[2] for name in set(programs(with_faults)) - set(programs(plan))} == {
        "handle_mm_fault", "do_huge_pmd_anonymous_page", "do_set_pmd", "hugetlb_fault",
    }  # fmt: skip
    definitions = host_definitions(plan, 1 << 20)
    assert definitions["SAMPLED"] == 1
    assert (definitions["CALL_ENTRY"], definitions["CALL_ENTRY_BYTES"]) == (7, 9)
    assert definitions["CALL_EXIT_BYTES"] == 0
    assert "SAMPLED" not in host_definitions(make_host_plan(SYMBOLS), 1 << 20)


def test_discards_are_counted_where_kvm_tells_them_and_splits_are_seen() -> None:
    plan = make_host_plan(SYMBOLS, fentry_functions=frozenset(X86))
    counting = plan.sampling({"CALL_ENTRY": 7}, count_discards=True)
    assert set(programs(counting)) - set(programs(plan.sampling({}))) == {"raw_kvm_unmap_hva_range"}
    attachment = counting.attachments[-1]
    assert (attachment.mechanism, attachment.symbol) == ("raw_tracepoint", "kvm:kvm_unmap_hva_range")
    assert counting.discards_by({}) == "kvm_unmap_hva_range"
    for failed in ("kvm_unmap_hva_range", "split_huge_pmd"):
        assert counting.discards_by({failed: "refused"}) is None
    assert plan.sampling({"CALL_ENTRY": 7}).discards_by({}) is None


@pytest.mark.parametrize(
    ("lacking", "why"),
    [
        (("__traceiter_kvm_unmap_hva_range", "__bpf_trace_kvm_unmap_hva_range"), "module kvm is not loaded"),
        (("__split_huge_pmd",), "needs a probe of __split_huge_pmd"),
    ],
)
def test_discards_that_cannot_be_counted_rightly_are_refused(lacking: tuple[str, ...], why: str) -> None:
    plan = make_host_plan(without(*lacking), fentry_functions=frozenset(X86))
    assert plan.sampling({"CALL_ENTRY": 7})
    with pytest.raises(CannotTraceError, match=why):
        plan.sampling({"CALL_ENTRY": 7}, count_discards=True)


@pytest.mark.parametrize("lacking", ["eventfd_read", "hrtimer_interrupt"])
def test_samples_need_fentry_where_a_kick_is_read_and_a_timer_interrupts(lacking: str) -> None:
    functions = frozenset(X86) - {lacking}
    plan = make_host_plan(SYMBOLS, fentry_functions=functions)
    with pytest.raises(CannotTraceError, match=f"needs fentry on {lacking}"):
        plan.sampling({})


def test_without_symbol_and_tracepoint_a_required_call_is_missing() -> None:
    plan = make_host_plan(without("__x64_sys_madvise", "__x64_sys_process_madvise"), tracepoints=False)
    assert [probe.point.name for probe in plan.missing_required] == ["madvise"]


def test_without_kvm_the_boundaries_are_eventfds() -> None:
    plan = make_host_plan(without("kvm_vcpu_ioctl", "kvm_vm_ioctl"))
    assert plan.boundaries({}) == {"kick": "eventfd_read", "completion": "eventfd_write"}
    assert plan.boundaries({"eventfd_write": "refused"})["completion"] is None
    assert plan.probe("kvm_vm_ioctl").note == "module kvm is not loaded"
    definitions = host_definitions(plan, 1 << 20)
    assert (definitions["KIND_kvm_vm_ioctl"], definitions["KIND_madvise"]) == ("absent", "kprobe")


def test_rows_say_what_became_of_them() -> None:
    rows = make_host_plan(SYMBOLS).describe({"split_huge_pmd": "no such function"})
    by_name = {row["function"]: row for row in rows}
    assert by_name["split_huge_pmd"]["status"] == Status.FAILED
    assert by_name["split_huge_pmd"]["note"] == "no such function"
    assert by_name["madvise"]["status"] == Status.ATTACHED
    assert by_name["kvm_vm_ioctl"]["module"] == "kvm"


def test_what_delimits_buffers_is_detached_first_and_returns_of_calls_last() -> None:
    names = programs(make_host_plan(SYMBOLS, fentry_functions=frozenset(X86)))
    links = list(range(len(names)))
    loaded = Loaded({}, dict.fromkeys(names, 0), links, {}, "bcc", "", 0, 0, 0)
    order = [names[link] for link in in_order_of_detaching(loaded)]
    assert sorted(order) == sorted(names)
    calls = ["madvise", "process_madvise", "fallocate"]
    assert order[-6:] == [f"{end}_{call}" for end in ("fentry", "fexit") for call in calls]
