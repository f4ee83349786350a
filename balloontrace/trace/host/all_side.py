# SPDX-License-Identifier: GPL-2.0-or-later
"""The host's side with every VMM on it, or all whose VM is called as a pattern says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from balloontrace.console.stderr import say
from balloontrace.errors import UsageError
from balloontrace.system.own_memory import keep_memory_flat, set_objects_aside
from balloontrace.system.vmm import require_first_pid_namespace
from balloontrace.trace.host.all_collector import AllCollector
from balloontrace.trace.host.all_session import AllSession
from balloontrace.trace.host.diagnosis import HostDiagnosis
from balloontrace.trace.host.followed_processes import FollowedProcesses, room_for
from balloontrace.trace.host.probes import HostPlan
from balloontrace.trace.host.side import HostSide
from balloontrace.trace.options import TraceOptions
from balloontrace.units import format_things


@dataclass(frozen=True)
class AttachedAll:
    """Probes attached for the VMMs of this machine."""

    collector: AllCollector
    processes: FollowedProcesses

    @property
    def target(self) -> str:
        """How many there are now, for the end of a sentence."""
        return f" to {format_things(len(self.processes), 'VM')}, and to those that start later"

    def open_session(self, output_fd: int, options: TraceOptions) -> AllSession:
        """A recording of them into `output_fd`."""
        return AllSession(self.collector, self.processes, output_fd, options, say=say)


class AllSide(HostSide):
    """Every VMM of this machine, those too that start later."""

    def check_options(self) -> None:
        """UsageError for what is of one process only, too."""
        options = self.options
        if options.pid is not None:
            raise UsageError("-p names one process, and --all means every VM: leave one of them out")
        for option, given in (
            ("--sample", options.sample),
            ("--time-faults", options.time_faults),
            ("--count-discards", options.count_discards),
            ("--engine bcc", options.engine == "bcc"),
        ):
            if given:
                raise UsageError(
                    f"{option} cannot trace all VMs at once: leave it out, or record one VM with --vm or -p"
                )
        super().check_options()

    def choose_target(self, diagnosis: HostDiagnosis) -> None:  # noqa: ARG002
        """Whoever is there. CannotTraceError where processes have numbers of their own."""
        require_first_pid_namespace()

    def choose_plan(self, diagnosis: HostDiagnosis) -> HostPlan:
        """The plan without page faults, which every process of the machine would pay for."""
        return super().choose_plan(diagnosis).without_faults()

    @contextmanager
    def attached(  # type: ignore[override]  # one of many is not one of one
        self, diagnosis: HostDiagnosis, plan: HostPlan
    ) -> Iterator[AttachedAll]:
        """Attach for all that are there; detached at the end of the context."""
        options, room = self.options, room_for(len(diagnosis.vmms))
        keep_memory_flat()
        with AllCollector(plan, diagnosis.engines, ring_bytes=options.ring_bytes, room=room) as collector:
            processes = FollowedProcesses(collector, options.vm, say)
            try:
                processes.come()
                set_objects_aside()
                yield AttachedAll(collector, processes)
            finally:
                processes.close()
