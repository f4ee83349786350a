# SPDX-License-Identifier: GPL-2.0-or-later
"""A recording of the guest's side: spans of its balloon driver, until something ends it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Self

from balloontrace.console.progress import progress_line
from balloontrace.errors import MissingProbeError
from balloontrace.format.balloon_size import BalloonSize
from balloontrace.format.guest_counters import Counters, parse_counters, raw_returns
from balloontrace.format.guest_layout import COUNTERS_LAYOUT, PAYLOAD_LAYOUT, SPAN_LAYOUT
from balloontrace.format.moved_pages import Moved, Unseen, find_unseen, moved_between
from balloontrace.format.vocabulary import Function, Kind, Side
from balloontrace.system import kernel
from balloontrace.system.guest_state import read_available, read_guest_state
from balloontrace.system.kernel_log import OomKills
from balloontrace.system.read_balloon_size import read_balloon_sizes
from balloontrace.trace.guest.collector import GuestCollector, summarise_losses
from balloontrace.trace.guest.diagnosis import GuestDiagnosis
from balloontrace.trace.guest.driver_watch import DriverWatch
from balloontrace.trace.guest.unseen_pages import (
    UNIT_PAGES,
    migrations_given_up,
    pages_of_spans,
    seen_by_probes,
    under_way,
)
from balloontrace.trace.options import TraceOptions
from balloontrace.trace.pace import TimingPace
from balloontrace.trace.session import Ending, Losses, RecordingSession, SessionResult, clocks

# What moves pages; the statistics that a host asks for each second do not.
_MOVING = (
    Function.TELL_HOST,
    Function.SEND_RESP_DATA,
    Function.LEAK_BALLOON,
    Function.FILL_BALLOON,
    Function.VIRTBALLOON_FREE_PAGE_REPORT,
)


@dataclass(frozen=True)
class _LastLook:
    """What was counted right before probes were detached; `moving`: pages moved meanwhile."""

    vmstat: Mapping[str, int]
    counters: Counters
    moved: Moved | None
    moving: bool


class GuestSession(RecordingSession[Counters]):
    """A recording of the guest's side, on an attached collector."""

    what = ("span", "spans")
    _collector: GuestCollector
    _parse = staticmethod(parse_counters)
    _progress_line_of = staticmethod(progress_line)

    def __init__(
        self,
        collector: GuestCollector,
        diagnosis: GuestDiagnosis,
        output_fd: int,
        options: TraceOptions,
        *,
        say: Callable[[str], None],
    ) -> None:
        """Options and words as for every `RecordingSession`."""
        pace = TimingPace(frozenset(probe.function for probe in collector.plan.attachable))
        super().__init__(collector, pace, output_fd, options, say=say)
        self._diagnosis = diagnosis
        self._driver = DriverWatch(diagnosis)
        self._driver_state = self._driver.state
        self._driver_seen_ns = time.monotonic_ns()
        self._driver_away = self._driver_lost = self._reattached = False
        self._srcversion = kernel.read_module_srcversion(collector.plan.driver_module)
        self._oom_kills = OomKills()
        self._before_detaching: _LastLook | None = None
        # With probes attached: what moves from now on is seen.
        self._started_vmstat: Mapping[str, int] = kernel.read_vmstat()
        self._started_balloons = self._ended_balloons = _read_balloons()

    @property
    def _is_watched(self) -> bool:
        # Payloads fill their ring faster than spans do theirs.
        # The sooner a driver's return is noticed, the less it has moved unseen.
        return self._options.operations is not None or self._collector.captures or self._driver_away

    def follow(self, before: Self) -> None:
        """Also with the sums of the kernel, and the sizes of the balloons."""
        super().follow(before)
        if before._before_detaching is not None:
            self._started_vmstat = before._before_detaching.vmstat
        self._started_balloons = before._ended_balloons

    def _finish(self, result: SessionResult) -> dict[str, object]:
        if self._is_followed:  # this takes long, and nothing is to move between what follows
            self._ended_balloons = self._read_balloons_now()
        return super()._finish(result)

    def _read_balloons_now(self) -> tuple[BalloonSize, ...]:
        return _read_balloons(device.name for device in self._diagnosis.devices)

    def _last_look(self, result: SessionResult) -> dict[str, object]:
        vmstat = self._end_tracing()
        result.unseen, result.reattached = self._find_unseen(), self._reattached
        if not self._is_followed:
            self._ended_balloons = self._read_balloons_now()
        result.balloons = self._ended_balloons
        return {
            "vmstat": vmstat,
            "balloons": [asdict(each) for each in result.balloons],
            "vmstat_traced": dict(self._before_detaching.vmstat) if self._before_detaching else {},
            "under_way_pages": result.unseen.under_way_pages if result.unseen else None,
        }

    def _read_state(self, *, moving: bool) -> dict[str, object]:
        if moving:
            return read_available()
        return {**read_guest_state(), "killed": [asdict(killed) for killed in self._oom_kills.read()]}

    def _activity(self, counters: bytes) -> object:
        return raw_returns(counters, _MOVING)

    def _losses(self, counters: Counters) -> Losses:
        collector = self._collector
        return summarise_losses(
            counters, collector.plan, collector.read_missed(), captures=collector.captures
        )

    def _program_costs(self, counters: Counters) -> list[dict[str, object]]:
        return self._collector.read_program_costs(counters)

    def _end_tracing(self) -> Mapping[str, int]:
        """Take the probes off, with a last look before; returns /proc/vmstat right after."""
        traced, counters = kernel.read_vmstat(), parse_counters(self._collector.read_counters())
        self._detach()
        # At once: a balloon that still moves is no longer traced.
        vmstat = traced if self._is_followed else kernel.read_vmstat()
        moved = moved_between(self._started_vmstat, traced, UNIT_PAGES)
        self._before_detaching = _LastLook(traced, counters, moved, moving=vmstat != traced)
        return vmstat

    def _find_unseen(self, *, unwritten_pages: int = 0) -> Unseen | None:
        """Pages that moved up to the last look before detaching, and are not in the recording."""
        look = self._before_detaching
        if look is None or look.moved is None:
            return None
        plan, layout = self._collector.plan, self._diagnosis.layout
        missed = self._collector.read_missed()
        seen_pages = seen_by_probes(look.counters, plan, layout, look.moved, missed)
        return find_unseen(
            look.moved,
            None if seen_pages is None else max(0, seen_pages - unwritten_pages),
            under_way(look.counters, plan, len(self._diagnosis.devices), moving=look.moving),
            migrations_failed=migrations_given_up(look.counters, look.moved),
        )

    def _give_up(self, result: SessionResult) -> None:
        if self._before_detaching is None:
            self._end_tracing()
        unwritten_pages: list[int] = []
        first = self._writer.refused_spans_from_byte
        self._collector.drain(lambda raw: unwritten_pages.append(pages_of_spans(raw[first:])))
        result.unseen = self._find_unseen(unwritten_pages=sum(unwritten_pages))

    def _side_ending(self) -> Ending | None:
        if self._driver_lost:
            return Ending.DRIVER_GONE
        wanted = self._options.operations
        if wanted is not None and parse_counters(self._counters).operations >= wanted:
            return Ending.OPERATIONS
        return None

    def _may_be_followed(self, late_s: float) -> bool:
        return not self._driver_away and super()._may_be_followed(late_s)

    def _final_ending(self, ending: Ending) -> Ending:
        """A driver that never came back is the end, whatever ended the waiting for it."""
        return Ending.DRIVER_GONE if self._driver_away else ending

    def _follow_driver(self) -> None:
        """Keep what happens to the driver: when it left, and since when its return is traced."""
        before, now_ns = self._driver_state, time.monotonic_ns()
        state = self._driver.look()
        if state is before:
            self._driver_seen_ns = now_ns
            return
        lacking = state.lacks(before)
        if not lacking and state.module == before.module:
            self._driver_state = state  # one more was plugged
            return
        if not state.replaces(before):
            if not self._driver_away:
                self._driver_away = True
                self._tell_driver("gone", lacking)
            return
        reattached = state.module != before.module
        self._reattached |= reattached
        if reattached and not self._reattach():
            self._driver_lost = True
            return
        self._tell_driver("back", lacking, devices_now=sorted(state.bound), reattached=reattached)
        self._driver_away, self._driver_state, self._driver_seen_ns = False, state, time.monotonic_ns()

    def _reattach(self) -> bool:
        """Attach to a module that was loaded again. False where that cannot be done as it was before."""
        module = self._collector.plan.driver_module
        if kernel.read_module_srcversion(module) != self._srcversion:
            self._say("balloontrace: another build of the driver was loaded\n")
            return False
        try:
            self._collector.reattach()
        except (OSError, MissingProbeError) as error:
            self._say(f"balloontrace: probes cannot be attached to the driver loaded again: {error}\n")
            return False
        return True

    def _tell_driver(self, what: str, devices: Sequence[str], **more: object) -> None:
        """Write it down, behind all that was traced before."""
        self._drain()
        event = {"what": what, "at": clocks(), "seen_ns": self._driver_seen_ns, "devices": list(devices)}
        self._writer.write_driver({**event, "vmstat": kernel.read_vmstat(), **more})
        told = "gone: waiting for it to come back" if what == "gone" else "back, and traced again"
        line = "\r\033[K" if self._options.show_progress else ""
        self._say(f"{line}balloontrace: the driver of {', '.join(devices) or 'the balloon'} is {told}\n")

    def _look(self) -> None:
        self._follow_driver()
        super()._look()

    def _drain_records(self) -> int:
        spans = self._collector.drain(self._writer.write_spans)
        self._collector.drain_payloads(self._writer.write_payloads)
        return spans

    def _metadata(self) -> dict[str, object]:
        diagnosis, plan = self._diagnosis, self._collector.plan
        return {
            "side": Side.GUEST,
            "driver": {
                "kind": str(diagnosis.driver_kind),
                "module": plan.driver_module or None,
                "module_srcversion": self._srcversion,
            },
            "devices": [
                {
                    "name": device.name,
                    "index": device.index,
                    "features": list(device.feature_names),
                    "feature_bits": list(device.feature_bits),
                }
                for device in diagnosis.devices
            ],
            "functions": {str(int(function)): function.symbol for function in Function},
            "span_layout": dict(SPAN_LAYOUT),
            "counters_layout": dict(COUNTERS_LAYOUT),
            "capture": "payload" if self._collector.captures else "none",
            "payload_layout": dict(PAYLOAD_LAYOUT),
            "boundaries": plan.boundaries,
            "virtio_mem": list(diagnosis.virtio_mem),
            "page_reporting": kernel.read_page_reporting(),
            "page_hinting": {"order": kernel.read_highest_order()},
            "parts_of_a": list(map(str, Kind)) if plan.splits_allocation else [],
            "layout": {
                "source": diagnosis.layout.source,
                "offsets_bytes": diagnosis.layout.offsets,
                "problem": diagnosis.layout.problem,
            },
            "vmstat": dict(self._started_vmstat),
            "balloons": [asdict(each) for each in self._started_balloons],
        }


def _read_balloons(known: Iterable[str] = ()) -> tuple[BalloonSize, ...]:
    """Size and target of the balloons there are, and of those `known` whether they are still there."""
    names = [*known, *(device.name for device in kernel.read_balloon_devices())]
    return read_balloon_sizes(dict.fromkeys(names))
