# SPDX-License-Identifier: GPL-2.0-or-later
"""The host's side: one process that serves a balloon."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

from balloontrace.console.stderr import say
from balloontrace.errors import UsageError
from balloontrace.system.kernel import read_function_ranges
from balloontrace.system.process_memory import has_hugetlb_pages
from balloontrace.system.vmm import Process, choose_process
from balloontrace.trace.host.collector import HostCollector
from balloontrace.trace.host.diagnosis import HostDiagnosis, diagnose_host
from balloontrace.trace.host.probes import HostPlan
from balloontrace.trace.host.process_watch import ProcessWatch
from balloontrace.trace.host.sampling import WAYS, define_ways
from balloontrace.trace.host.session import HostSession
from balloontrace.trace.options import TraceOptions
from balloontrace.trace.side import TracedSide


def _check_sampling(options: TraceOptions) -> None:
    """UsageError for what samples do not go with."""
    for option, given in (
        ("--count-freed", options.count_freed),
        (f"--attach {options.attach}", options.attach != "auto"),
        ("--engine bcc", options.engine == "bcc"),
    ):
        if given:
            raise UsageError(f"{option} does not go with --sample: leave one of them out")


@dataclass(frozen=True)
class AttachedHost:
    """A process with probes attached for it."""

    collector: HostCollector
    process: Process
    watch: ProcessWatch

    @property
    def target(self) -> str:
        """The process, for the end of a sentence."""
        return f" to process {self.process.description}"

    def open_session(self, output_fd: int, options: TraceOptions) -> HostSession:
        """A recording of it into `output_fd`."""
        return HostSession(self.collector, self.process, self.watch, output_fd, options, say=say)


class HostSide(TracedSide[HostDiagnosis, HostPlan, AttachedHost]):
    """A process of this machine that serves a balloon."""

    no_way = "no way to probe"
    _process: Process

    def check_options(self) -> None:
        """UsageError for what is asked and cannot be had on this side."""
        options = self.options
        if options.sample:
            _check_sampling(options)
        elif options.time_faults:
            raise UsageError(
                "--time-faults goes with --sample: where calls are traced, faults are timed anyway"
            )
        elif options.count_discards:
            raise UsageError("--count-discards goes with --sample: where calls are traced, they are counted")
        if options.split_allocation:
            raise UsageError("--split-allocation is for the guest's side: its driver allocates")
        for option, given in (
            ("--operations", options.operations is not None),
            ("--capture payload", options.capture),
            ("--layout", bool(options.offsets)),
        ):
            if given:
                raise UsageError(f"{option} is for the guest's side: a host does not see what it needs")

    def diagnose(self) -> HostDiagnosis:
        """Look at this system; never raises for something it could report."""
        return diagnose_host(engine=self.options.engine, pid=self.options.pid)

    def choose_target(self, diagnosis: HostDiagnosis) -> None:
        """The process that was named, or the only one there is."""
        self._process = choose_process(self.options.pid, diagnosis.vmms, vm=self.options.vm)
        if self.options.count_freed and has_hugetlb_pages(self._process.pid):
            # hugetlb_remove_rmap is inlined, and hugetlbfs empties its files itself.
            raise UsageError(
                f"--count-freed cannot tell what process {self._process.pid} frees: it has memory of "
                "hugetlbfs, which is freed in other functions than those probed; leave it out"
            )

    def choose_plan(self, diagnosis: HostDiagnosis) -> HostPlan:
        """The plan, with what tells calls that free nothing and by the way that was asked for."""
        plan = diagnosis.plan if self.options.ring_bytes else diagnosis.plan.without_faults()
        if self.options.sample:
            names = (name for names in WAYS.values() for name in names)
            ways = define_ways(read_function_ranges(names))
            return plan.sampling(
                ways, time_faults=self.options.time_faults, count_discards=self.options.count_discards
            )
        if self.options.count_freed:
            plan = plan.counting_freed()
            if plan.freed_by({}) is None:
                lacking = ", ".join(probe.where or probe.name for probe in plan.lacking_freed)
                say(f"balloontrace: warning: what calls free is not counted: no probe of {lacking}\n")
        match self.options.attach:
            case "kprobe":
                return plan.with_kprobes()
            case "tracepoint":
                return plan.with_tracepoints()
        return plan

    @contextmanager
    def attached(self, diagnosis: HostDiagnosis, plan: HostPlan) -> Iterator[AttachedHost]:
        """Attach for the process; detached at the end of the context."""
        process = self._process
        with (
            closing(ProcessWatch(process)) as watch,
            HostCollector(
                plan, process.pid, diagnosis.engines, ring_bytes=self.options.ring_bytes
            ) as collector,
        ):
            yield AttachedHost(collector, process, watch)
