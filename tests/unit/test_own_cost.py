# SPDX-License-Identifier: GPL-2.0-or-later
"""What recording cost, in words that what was measured bears out."""

from __future__ import annotations

import io
from pathlib import Path

import synthetic
from flows import typical_flow
from people import render_table

from balloontrace.analysis.make_report import analyse
from balloontrace.format.recording import read_recording
from balloontrace.results.recorder import OwnCost
from balloontrace.results.report import Report

CASES = Path(__file__).parents[1] / "data" / "cases"

Program = dict[str, object]


def program(name: str, runs: int | None, timed_runs: int | None, run_time_ns: int | None) -> Program:
    return {"program": name, "runs": runs, "timed_runs": timed_runs, "run_time_ns": run_time_ns}


def cost_of(*bpf: Program) -> tuple[OwnCost, str]:
    """The cost of a guest's recording, and how it is shown."""
    data = synthetic.recording_bytes(typical_flow(), end={"own_cost": {"bpf": list(bpf), "cpu_ns": 1}})
    return told(analyse(read_recording(io.BytesIO(data))))


def told(report: Report) -> tuple[OwnCost, str]:
    assert report.own_cost is not None
    text = " ".join(render_table(report).split())
    start = text.index("Cost of recording: ")
    return report.own_cost, text[start : text.index("; CPU", start)]


def test_programs_that_ran_and_were_not_timed_cost_something_nobody_knows() -> None:
    """tests/data/cases/n2-host.bt: the balloon moved later than the first seconds, which alone were timed."""
    cost, said = told(analyse(read_recording(CASES / "n2-host.bt")))
    assert cost.bpf_time_ns is None
    assert (cost.bpf_runs, cost.bpf_timed_runs) == (49_470, 0)
    assert set(cost.bpf_not_counted) == {
        "fexit_eventfd_read", "fentry_eventfd_write", "fexit_kvm_vcpu_ioctl", "kprobe_kvm_vm_ioctl",
        "fentry_split_huge_pmd",
    }  # fmt: skip
    assert said == (
        "Cost of recording: BPF - in 49 470 runs (0 of them timed, none of fexit_madvise, "
        "fentry_madvise, fexit_fallocate, fentry_fallocate; without 5 programs whose runs are not counted)"
    )


def test_a_part_that_was_timed_is_a_lower_bound() -> None:
    cost, said = cost_of(program("one", 100, 10, 5_000), program("other", 7, 0, 0))
    assert (cost.bpf_time_ns, cost.bpf_never_timed) == (50_000, ("other",))
    assert said == "Cost of recording: BPF at least 50.0 us in 107 runs (10 of them timed, none of other)"


def test_no_more_runs_are_timed_than_there_were() -> None:
    """The kernel times runs for every process, of which only those of one are counted."""
    cost, _ = cost_of(program("one", 20, 25, 5_000), program("uncounted", None, 400, 9_000))
    assert (cost.bpf_runs, cost.bpf_timed_runs, cost.bpf_time_ns) == (20, 20, 4_000)


def test_what_never_ran_cost_nothing_that_could_be_timed() -> None:
    cost, _ = cost_of(program("one", 0, 12, 5_000))
    assert (cost.bpf_runs, cost.bpf_timed_runs, cost.bpf_time_ns) == (0, 0, None)


def test_counts_that_are_not_there_are_not_zero() -> None:
    cost, _ = cost_of(program("one", None, None, None))
    assert (cost.bpf_runs, cost.bpf_timed_runs, cost.bpf_time_ns) == (None, None, None)
