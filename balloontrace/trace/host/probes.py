# SPDX-License-Identifier: GPL-2.0-or-later
"""Which calls to probe on the host: a table of candidates, and the plan that fits the facts of one kernel."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from balloontrace.errors import CannotTraceError
from balloontrace.format.vocabulary import Status
from balloontrace.system.kernel import KVM_MODULE, Symbol
from balloontrace.trace.mechanism import Mechanism
from balloontrace.trace.plan import Plan, PlannedProbe


@dataclass(frozen=True)
class HostPoint:
    """One row of the table: something that a process which serves a balloon does."""

    name: str  # what the programs are called after
    symbols: tuple[str, ...]  # names of its function, one of which a kernel has
    stage: str
    yields: str
    tracepoint: str | None = None  # of the system call, without sys_enter_
    required: bool = False
    entry: bool = True  # its entry is probed
    returns: bool = False  # its return is probed
    fexit_suffices: bool = False  # with fentry, the program on return needs none on entry
    raw_tracepoint: str | None = None  # with its category; its symbols only show that a kernel has it
    tells_freed: bool = False  # only for `record --count-freed`
    tells_faults: bool = False  # for what a process takes back
    samples: bool = False  # only for `record --sample`
    tells_discards: bool = False  # only for `record --sample --count-discards`
    fentry: bool = True  # fentry can be relied on

    def ends(self, mechanism: Mechanism) -> tuple[bool, ...]:
        """Which ends get a program, return (True) before entry (False)."""
        entry = self.entry and not (mechanism is Mechanism.FENTRY and self.fexit_suffices)
        return (True,) * self.returns + (False,) * entry


def _system_call(name: str, yields: str, *, required: bool = False) -> HostPoint:
    symbols = tuple(f"{prefix}{name}" for prefix in ("__x64_sys_", "__arm64_sys_"))
    return HostPoint(name, symbols, "d discard", yields, tracepoint=name, required=required, returns=True)


_DISCARDS, _SPLITS = "kvm_unmap_hva_range", "split_huge_pmd"

TABLE = (
    _system_call("madvise", "pages given back to the host, or wanted back from it", required=True),
    _system_call("process_madvise", "the same for another process"),
    _system_call("fallocate", "holes punched into the file behind guest memory", required=True),
    HostPoint(
        "eventfd_read", ("eventfd_read",), "batch", "a kick seen, where the device has an eventfd for it",
        entry=False, returns=True,
    ),
    HostPoint(
        "eventfd_write", ("eventfd_write",), "batch", "a completion, where the device has an eventfd for it",
    ),
    HostPoint(
        "kvm_vcpu_ioctl", ("kvm_vcpu_ioctl",), "batch", "a kick seen, where it takes a vCPU out of the guest",
        returns=True, fexit_suffices=True,
    ),
    # After it lies kvm_arch_vm_compat_ioctl, weak and overridden: without a symbol, but a place that ftrace
    # knows and never patches. Looking for a place in what seems one long function, ftrace_location may find
    # that one; then fentry is attached and never runs, in some boots. A kprobe names the very place.
    HostPoint(
        "kvm_vm_ioctl", ("kvm_vm_ioctl",), "batch", "a completion, where the VMM sends the interrupt",
        fentry=False,
    ),
    HostPoint(
        _SPLITS, ("__split_huge_pmd",), "huge pages", "mappings of huge pages split by the calls",
    ),
    # Of the traced process and, in the thread of a vCPU, of its guest.
    HostPoint(
        "handle_mm_fault", ("handle_mm_fault",), "faults", "page faults of the process: memory taken back",
        returns=True, tells_faults=True,
    ),
    HostPoint(
        "do_huge_pmd_anonymous_page", ("do_huge_pmd_anonymous_page",), "faults",
        "faults answered by a huge page", entry=False, returns=True, tells_faults=True,
    ),
    HostPoint(
        "do_set_pmd", ("do_set_pmd",), "faults", "the same in memory of files",
        entry=False, returns=True, tells_faults=True, fentry=False,
    ),
    HostPoint(
        "hugetlb_fault", ("hugetlb_fault",), "faults", "the same in memory of hugetlbfs", tells_faults=True,
    ),
    HostPoint(
        "hrtimer_interrupt", ("hrtimer_interrupt",), "samples", "what a timer interrupts", samples=True,
    ),
    HostPoint(
        "kvm_send_userspace_msi", ("kvm_send_userspace_msi",), "samples", "that it has to wait for a kick",
        samples=True,
    ),
    HostPoint(
        _DISCARDS, (f"__traceiter_{_DISCARDS}", f"__bpf_trace_{_DISCARDS}"), "samples",
        "what KVM is told to take from its guest", raw_tracepoint=f"kvm:{_DISCARDS}", tells_discards=True,
    ),
    HostPoint(
        "mm_page_free", ("__traceiter_mm_page_free", "__bpf_trace_mm_page_free"), "freed",
        "pages that became free inside a call", raw_tracepoint="kmem:mm_page_free", tells_freed=True,
    ),
    # Whose pages these were: mm/rmap.c, before v6.8 one function for pages of all sizes; mm/truncate.c, of
    # pages before v5.17; mm/filemap.c.
    HostPoint(
        "remove_rmap", ("folio_remove_rmap_ptes", "page_remove_rmap"), "freed",
        "pages of anonymous memory unmapped by a call", tells_freed=True,
    ),
    HostPoint(
        "truncate_folio", ("truncate_inode_folio", "truncate_inode_page"), "freed",
        "pages removed from the file behind guest memory", tells_freed=True,
    ),
    HostPoint(
        "delete_batch", ("delete_from_page_cache_batch",), "freed",
        "pages removed from a file on a disk", tells_freed=True,
    ),
)  # fmt: skip

_TELLS_FREED = frozenset(point.name for point in TABLE if point.tells_freed)
_SHOWN_SAMPLED = frozenset({"eventfd_read", "eventfd_write", "kvm_vm_ioctl", _SPLITS})
_NEEDED_SAMPLED = frozenset({"eventfd_read", "hrtimer_interrupt"})
_NO_TYPES = "no type information on the pages of this kernel"

SYMBOL_NAMES = tuple(name for point in TABLE for name in point.symbols)


@dataclass(frozen=True)
class HostProbe(PlannedProbe[HostPoint]):
    """A row of the table as it fits this kernel."""

    symbol: Symbol | None = None  # None for a tracepoint

    @property
    def by_symbol(self) -> tuple[tuple[Symbol, Mechanism], ...]:
        """The one symbol, without a name for a tracepoint."""
        return ((self.symbol or Symbol("", 0, ""), self.mechanism),)

    @property
    def where(self) -> str | None:
        """What is attached to; of a tracepoint, the one on entry."""
        return self.target(self.by_symbol[0][0], returns=False) or None

    @property
    def module(self) -> str | None:
        """The module it lies in; None for the kernel image."""
        return (self.symbol.module or None) if self.symbol else None

    def target(self, symbol: Symbol, *, returns: bool) -> str:
        """What the program at one end is attached to, a tracepoint with its category."""
        if self.mechanism is Mechanism.TRACEPOINT:
            return f"syscalls:sys_{Mechanism.TRACEPOINT.program(returns=returns)}_{self.point.tracepoint}"
        if self.mechanism is Mechanism.RAW_TRACEPOINT and self.point.raw_tracepoint:
            return self.point.raw_tracepoint
        return symbol.name

    @property
    def spelled_out(self) -> str:
        """The kernel's words for what is attached, e.g. `fentry+fexit`."""
        if self.mechanism is Mechanism.TRACEPOINT:
            return "sys_enter+sys_exit tracepoints"
        if self.mechanism is Mechanism.RAW_TRACEPOINT:
            return "raw tracepoint"
        return super().spelled_out


@dataclass(frozen=True)
class HostPlan(Plan[HostProbe]):
    """What will be attached on the host.

    `page_layout` is what the programs need to know of pages to tell what became free, name and value each;
    `asks_freed` whether that was asked for, possible or not. `slot_layout` leads from a VM's file to its
    memory slots; empty: not known. With `sampled_by` no call is traced.
    """

    page_layout: tuple[tuple[str, int], ...] = ()
    slot_layout: tuple[tuple[str, int], ...] = ()
    asks_freed: bool = False
    sampled_by: tuple[tuple[str, int], ...] = ()  # what samples need to know; empty: calls are traced

    def probe(self, name: str) -> HostProbe:
        """The row of that name."""
        return next(probe for probe in self.probes if probe.point.name == name)

    def counting_freed(self) -> HostPlan:
        """The same plan with the probes that show what calls freed: all, or none if one is impossible."""
        telling = [probe for probe in self.probes if probe.point.tells_freed and probe.symbol]
        status, note = Status.NOT_NEEDED, "useless without the others"
        if not self.page_layout:
            status, note = Status.ABSENT, _NO_TYPES
        elif len(telling) == len(_TELLS_FREED):
            status, note = Status.ATTACH, ""
        plan = self._each(
            lambda probe: replace(probe, status=status, note=note) if probe in telling else probe
        )
        return replace(plan, asks_freed=True)

    def without_faults(self) -> HostPlan:
        """The same plan without what shows page faults."""
        return self._each(
            lambda probe: (
                replace(probe, status=Status.NOT_NEEDED, note="only recordings have them")
                if probe.point.tells_faults and probe.status is Status.ATTACH
                else probe
            )
        )

    def sampling(
        self, ways: Mapping[str, int], *, time_faults: bool = False, count_discards: bool = False
    ) -> HostPlan:
        """The same plan without probes on calls; `ways` is what their samples need to know.

        Faults have probes only if asked for: every page fault of the host's runs into them. So has what is
        taken from the guest: that is one program for each discard. CannotTraceError where fentry cannot show
        what kicked a thread, or what a timer interrupts, and where discards are to be counted and cannot be.
        """
        for name in sorted(_NEEDED_SAMPLED):
            if not (probe := self.probe(name)).symbol or probe.mechanism is not Mechanism.FENTRY:
                raise CannotTraceError(f"--sample needs fentry on {name}, and this kernel has none")

        if count_discards:
            self._check_discards()

        def fit(probe: HostProbe) -> HostProbe:
            if count_discards and probe.point.tells_discards:
                return replace(probe, status=Status.ATTACH, note="")
            if probe.name in _NEEDED_SAMPLED:
                required = replace(probe.point, required=True)
                return replace(probe, point=required, status=Status.ATTACH, note="")
            if probe.point.samples and probe.symbol and probe.mechanism is Mechanism.FENTRY:
                return replace(probe, status=Status.ATTACH, note="")
            shown = probe.name in _SHOWN_SAMPLED or (time_faults and probe.point.tells_faults)
            if shown or probe.status is not Status.ATTACH:
                return probe
            return replace(probe, status=Status.NOT_NEEDED, note="calls are sampled")

        plan = self._each(fit)
        return replace(plan, sampled_by=tuple(ways.items()))

    def _check_discards(self) -> None:
        """CannotTraceError where they cannot be told from huge pages that are split."""
        if not self.probe(_DISCARDS).symbol:
            raise CannotTraceError(
                f"--count-discards needs KVM's tracepoint {_DISCARDS}, and this kernel has none: module "
                f"{KVM_MODULE} is not loaded, or has no tracepoints; leave the option out"
            )
        if self.probe(_SPLITS).status is not Status.ATTACH:
            raise CannotTraceError(
                "--count-discards needs a probe of __split_huge_pmd, and this kernel has none; leave the "
                "option out"
            )

    def discards_by(self, failures: Mapping[str, str]) -> str | None:
        """What counts discards; None where nothing does, or would not be right."""
        attached = {probe.point.name for probe in self.attachable} - failures.keys()
        return _DISCARDS if {_DISCARDS, _SPLITS} <= attached else None

    def with_kprobes(self) -> HostPlan:
        """The same plan without fentry."""
        return self._each(
            lambda probe: (
                replace(probe, mechanism=Mechanism.KPROBE)
                if probe.symbol and not probe.point.raw_tracepoint
                else probe
            )
        )

    def with_tracepoints(self) -> HostPlan:
        """The same plan with tracepoints for system calls, and kprobes for what has none."""
        return self.with_kprobes()._each(
            lambda probe: (
                replace(probe, status=Status.ATTACH, symbol=None, mechanism=Mechanism.TRACEPOINT, note="")
                if probe.point.tracepoint
                else probe
            )
        )

    def boundaries(self, failures: Mapping[str, str]) -> dict[str, str | None]:
        """What shows the ends of a batch, by name; None where nothing will; part of every recording."""
        attached = {probe.point.name for probe in self.attachable} - failures.keys()
        return {
            "kick": " or ".join(n for n in ("eventfd_read", "kvm_vcpu_ioctl") if n in attached) or None,
            "completion": " or ".join(n for n in ("eventfd_write", "kvm_vm_ioctl") if n in attached) or None,
        }

    def freed_by(self, failures: Mapping[str, str]) -> str | None:
        """What shows that a call freed something; None where that is not counted, or would not be right."""
        points = [probe.point.name for probe in self.attachable if probe.point.tells_freed]
        is_whole = _TELLS_FREED.issubset(points) and not failures.keys() & set(points)
        return " or ".join(points) if is_whole else None

    @property
    def lacking_freed(self) -> tuple[HostProbe, ...]:
        """What would be needed to count what calls free and is not there, or cannot be understood."""
        return tuple(
            probe for probe in self.probes if probe.point.tells_freed and probe.status is Status.ABSENT
        )

    def _each(self, change: Callable[[HostProbe], HostProbe]) -> HostPlan:
        return replace(self, probes=tuple(change(probe) for probe in self.probes))


def make_host_plan(
    symbols: Sequence[Symbol],
    *,
    fentry_functions: frozenset[str] = frozenset(),
    tracepoints: bool = True,
    page_layout: Mapping[str, int] | None = None,
    slot_layout: Mapping[str, int] | None = None,
) -> HostPlan:
    """Fit the table to a kernel.

    `symbols` are the function symbols of `SYMBOL_NAMES`; `fentry_functions` the names that fentry can reach;
    `tracepoints` whether the kernel has those of system calls, which are the last resort; `page_layout` what
    `kernel.read_page_layout` found, and `slot_layout` what `kernel.read_slot_layout` did.
    """
    return HostPlan(
        tuple(_plan_probe(point, symbols, fentry_functions, tracepoints) for point in TABLE),
        tuple((page_layout or {}).items()),
        tuple((slot_layout or {}).items()),
    )


def _plan_probe(
    point: HostPoint, symbols: Sequence[Symbol], fentry_functions: frozenset[str], tracepoints: bool
) -> HostProbe:
    for name in point.symbols:
        # The variants of a compiler are not these functions: system calls and operations of files have none.
        found = [symbol for symbol in symbols if symbol.name == name]
        if found:
            by_fentry = point.fentry and len(found) == 1 and name in fentry_functions
            mechanism = Mechanism.FENTRY if by_fentry else Mechanism.KPROBE
            if point.raw_tracepoint:
                mechanism = Mechanism.RAW_TRACEPOINT
            if point.tells_freed or point.samples or point.tells_discards:
                option = "--count-freed" if point.tells_freed else "--sample"
                option = "--count-discards" if point.tells_discards else option
                return HostProbe(point, Status.NOT_NEEDED, mechanism, f"record {option} uses it", found[0])
            return HostProbe(point, Status.ATTACH, mechanism, symbol=found[0])
    if point.tracepoint and tracepoints:
        return HostProbe(point, Status.ATTACH, mechanism=Mechanism.TRACEPOINT)
    note = f"module {KVM_MODULE} is not loaded" if point.name.startswith("kvm_") else ""
    return HostProbe(point, Status.ABSENT, note=note)
