# SPDX-License-Identifier: GPL-2.0-or-later
"""Attaches a plan, drains what it yields, and says what was lost and what the tracing itself cost.

Knows nothing of files and decodes no span: the light half of the recorder.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from types import TracebackType

from balloontrace.format.balloon_size import kernel_page_in_pages
from balloontrace.format.guest_counters import Counters, FunctionCounts, counters_since
from balloontrace.format.guest_layout import COUNTERS, LIVE, PAYLOAD, RING_HEADER_BYTES, SPAN
from balloontrace.format.vocabulary import COUNTED_ONLY, Function, Status
from balloontrace.system.attach_kprobe import attach_kprobe
from balloontrace.system.kernel import KNOWN_MEMBERS, Layout, read_highest_order, read_symbols
from balloontrace.trace.attached_programs import DEFAULT_RING_BYTES, AttachedPrograms, attach_first
from balloontrace.trace.engines.choose import Engine
from balloontrace.trace.engines.request import PAGE_BYTES, Attachment, LoadRequest
from balloontrace.trace.guest.plan import GuestPlan
from balloontrace.trace.guest.probes import SYMBOL_NAMES, TABLE
from balloontrace.trace.shared_maps import RecordRing, SharedPage

PAYLOAD_RING_BYTES = 8 << 20
"""Room for 7 900 records: 7 900 MiB of stock inflate, or 247 full sends of the patched driver."""
_LOSS_COUNTS = (
    "entries", "returns", "unmatched_returns", "lost", "no_state", "overwritten", "missed", "summed",
    "summed_ns", "summed_pages",
)  # fmt: skip

_NO_OFFSET = -1  # to bpf/balloon_compat.h: where a member lies is unknown

Definitions = Mapping[str, str | int]
"""What is passed to the compiler as -D."""


class GuestCollector(AttachedPrograms[GuestPlan]):
    """A plan attached to the running kernel."""

    def __init__(
        self,
        plan: GuestPlan,
        layout: Layout,
        engines: tuple[Engine, ...],
        *,
        ring_bytes: int = DEFAULT_RING_BYTES,
        payload_ring_bytes: int = 0,
    ) -> None:
        """Attach `plan` by the first of `engines` that can; with room for payloads, these are captured too.

        Without a ring (0 bytes) there are no spans; what they would tell is summed up for `read_live`.
        Raises CannotTraceError when nothing can be compiled or loaded, MissingProbeError when a required
        probe is refused. Sizes are powers of two times the page size.
        """
        self.captures = payload_ring_bytes > 0
        definitions = _definitions(layout, ring_bytes, payload_ring_bytes)
        plan, loaded = attach_first(
            engines, (plan, plan.with_kprobes()), lambda plan: _request(plan, definitions)
        )
        maps = loaded.maps
        super().__init__(
            plan,
            loaded,
            SharedPage(maps["counters"], COUNTERS.size_bytes),
            ring=RecordRing(maps["spans"], ring_bytes, RING_HEADER_BYTES + SPAN.size_bytes)
            if ring_bytes
            else None,
            live=None if ring_bytes else SharedPage(maps["live"], LIVE.size_bytes),
            links=loaded.links,
        )
        self._payloads = (
            RecordRing(maps["payloads"], payload_ring_bytes, RING_HEADER_BYTES + PAYLOAD.size_bytes)
            if self.captures
            else None
        )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, traceback)
        if self._payloads is not None:
            self._payloads.close()

    def reattach(self) -> None:
        """Attach to the driver's module anew, which was unloaded and loaded again: kprobes went with it.

        Raises MissingProbeError when a required function is not there any more, OSError when the kernel
        refuses.
        """
        plan = self.plan.moved_to(read_symbols(SYMBOL_NAMES))
        links = []
        try:
            for probe in plan.attachable:
                for attachment in probe.attachments if probe.point.in_driver else ():
                    program_fd = self.loaded.programs.get(attachment.program)
                    if program_fd is not None:
                        links.append(
                            attach_kprobe(program_fd, attachment.address, returns=attachment.returns)
                        )
        except OSError:
            for fd in links:
                os.close(fd)
            raise
        self.plan = plan
        self.add_links(links)

    def _since(self, raw: bytes, before: bytes) -> bytes:
        return counters_since(raw, before)

    @property
    def filled(self) -> float:
        """How full the fuller ring is: 0 empty, 1 full."""
        payloads = self._payloads.waiting / self._payloads.capacity if self._payloads is not None else 0.0
        return max(super().filled, payloads)

    def drain_payloads(self, take: Callable[[memoryview], object]) -> int:
        """What `drain` does, for records of payloads; none if they are not captured."""
        return self._payloads.drain(take) if self._payloads is not None else 0

    def read_program_costs(self, counters: Counters) -> list[dict[str, object]]:
        """Each program's runs, how many of them the kernel timed, and their time; None: not measured."""
        return [
            {
                "program": attachment.program,
                "runs": _count_runs(attachment, counters.functions[Function[attachment.function.upper()]]),
                **self.read_timed(attachment.program),
            }
            for attachment in _unique_programs(self.plan)
            if attachment.program in self.loaded.programs
        ]

    def read_missed(self) -> dict[Function, int | None]:
        """Entries of each function for which the kernel did not run the program; None: not counted.

        It does not when that CPU is inside the same program already. A return missed so shows at the next
        entry, as `overwritten`.
        """
        return {
            Function[attachment.function.upper()]: self.read_fdinfo(attachment.program).get(
                "recursion_misses"
            )
            for attachment in _unique_programs(self.plan)
            # Kernels before 6.7 count none at kprobes.
            if attachment.mechanism == "fentry" and not attachment.returns
        }


def _unique_programs(plan: GuestPlan) -> list[Attachment]:
    """One attachment of each program: a program may be attached to several functions of one name."""
    return list({attachment.program: attachment for attachment in plan.attachments}.values())


def _count_runs(attachment: Attachment, counts: FunctionCounts) -> int:
    """How often a program ran, by its own count."""
    if attachment.function == Function.CONFIG_GET.symbol:
        # Its kprobe counts entries, its fexit returns; the kretprobe runs as often as the kprobe.
        return counts.returns if attachment.mechanism == "fentry" else counts.entries
    return counts.returns if attachment.returns else counts.entries


def summarise_losses(
    counters: Counters, plan: GuestPlan, missed: Mapping[Function, int | None], *, captures: bool = False
) -> dict[str, dict[str, int | None]]:
    """What each attached probe missed, and the capture of payloads if there was one.

    What has no return that is probed has no returns to count.
    """
    losses = {}
    for probe in plan.attachable:
        counts = counters.functions[probe.function]
        if probe.function in COUNTED_ONLY:
            continue
        returns = probe.point.returns
        losses[probe.function.symbol] = {
            "entries": counts.entries,
            "returns": counts.returns if returns else None,
            "unmatched_returns": counts.unmatched_returns if returns else None,
            "lost": counts.lost,
            "no_state": counts.no_state if returns else None,
            "overwritten": counts.overwritten if returns else None,
            "missed": missed.get(probe.function),
            "summed": counts.summed if returns else None,
            "summed_ns": counts.summed_ns if returns else None,
            "summed_pages": counts.summed_pages if returns else None,
        }
    if plan.splits_allocation:
        counts = counters.functions[Function.ALLOCATION_PARTS]
        losses[Function.ALLOCATION_PARTS.symbol] = {
            **dict.fromkeys(_LOSS_COUNTS), "lost": counts.lost, "no_state": counts.no_state
        }  # fmt: skip
    if captures:
        counts = counters.functions[Function.PAYLOAD]
        losses[Function.PAYLOAD.symbol] = {
            **dict.fromkeys(_LOSS_COUNTS), "entries": counts.entries, "lost": counts.lost
        }  # fmt: skip
    return losses


def _request(plan: GuestPlan, definitions: Definitions) -> LoadRequest:
    return LoadRequest(
        "guest.bpf.c",
        {**definitions, **_kinds(plan)},
        plan.attachments,
        _maps(definitions),
    )


def _maps(definitions: Definitions) -> tuple[str, ...]:
    rings = {"SPAN_RING_PAGES": "spans", "PAYLOAD_RING_PAGES": "payloads"}
    live = () if "SPAN_RING_PAGES" in definitions else ("live",)
    return ("counters", "threads", *live, *(name for size, name in rings.items() if size in definitions))


def _definitions(layout: Layout, ring_bytes: int, payload_ring_bytes: int) -> Definitions:
    """What the BPF source leaves open: sizes, and the offsets this kernel has."""
    unit_pages, order = kernel_page_in_pages(PAGE_BYTES) or 1, read_highest_order()
    definitions: dict[str, str | int] = {
        "UNIT_PAGES": unit_pages,
        "HINT_BLOCK_PAGES": 0 if order is None else unit_pages << order,
    }
    if ring_bytes:
        definitions["SPAN_RING_PAGES"] = ring_bytes // PAGE_BYTES
    if payload_ring_bytes:
        definitions["PAYLOAD_RING_PAGES"] = payload_ring_bytes // PAGE_BYTES
    for member in KNOWN_MEMBERS:
        definitions[member.replace(".", "_").upper()] = layout.offsets.get(member, _NO_OFFSET)
    return definitions


def _kinds(plan: GuestPlan) -> Definitions:
    """How each function of the table is hooked."""
    kinds: dict[str, str | int] = {}
    for point in TABLE:
        kinds |= {f"KIND_{point.function.symbol}": "absent", f"{point.function.name}_ARGUMENTS": 0}
    for probe in plan.probes:
        if probe.status is Status.ATTACH:
            kinds[f"KIND_{probe.function.symbol}"] = probe.kind
            kinds[f"{probe.function.name}_ARGUMENTS"] = int(probe.arguments_trusted)
    fill = plan.probe(Function.FILL_BALLOON).status is Status.ATTACH
    return {
        **kinds, "SPLIT_ALLOCATION": int(plan.splits_allocation), "FILL_BALLOON_TRACED": int(fill)
    }  # fmt: skip
