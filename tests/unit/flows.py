# SPDX-License-Identifier: GPL-2.0-or-later
"""Walks through the driver's flow with chosen times, which leave what it did and what must come back.

No kernel is imitated. A `Flow` keeps a clock; each call of a work item, a send, a notification advances it
by exactly the stated time and leaves the span a tracer would have left. What it added up along the way is
what the analysis must come back with.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from balloontrace.format.vocabulary import Function, Queue, SpanFlag

PAGES_PER_SEND = 256


class Span(NamedTuple):
    """The fields of a `struct bt_span`."""

    start_ns: int = 0
    duration_ns: int = 0
    tid: int = 0
    cpu: int = 0
    function: int = 0
    flags: int = 0
    device: int = 0
    queue: int = 0
    pages: int = 0
    result: int = 0
    config_calls: int = 0
    target_pages: int = 0
    actual_pages: int = 0
    config_ns: int = 0
    bytes: int = 0
    passes: int = 0
    bitmaps: int = 0
    wait_ns: int = 0

    @property
    def end_ns(self) -> int:
        return self.start_ns + self.duration_ns


class Payload(NamedTuple):
    """What one send carried."""

    start_ns: int
    tid: int
    function: Function
    data: bytes


@dataclass(frozen=True)
class Times:
    """How long each step of a work item takes, in ns."""

    interrupt_to_work: int = 5_000
    interrupt: int = 700
    before_body: int = 300
    allocate: int = 40_000
    send: int = 300_000
    after_send: int = 200
    config_get: int = 4_000
    config_set: int = 6_000
    after_body: int = 150
    requeue: int = 2_500
    failed_allocation: int = 200_000_000
    extend: int = 900
    pass_: int = 7_000
    records: int = 1_100
    run_delay: int | None = None  # of a work item; None: the kernel does not tell
    running: int | None = None  # of a send, after its interrupt; None: no interrupt is traced


@dataclass
class Expected:
    """What one operation must turn out to be."""

    device: int
    kind: str
    start_ns: int
    end_ns: int = 0
    pages: int = 0
    sends: int = 0
    a_ns: int = 0
    extend_ns: int = 0
    build_ns: int = 0
    bcd_ns: int = 0
    config_ns: int = 0
    outside_body_ns: int = 0
    requeue_ns: int = 0
    interrupt_ns: int = 0
    short: int = 0
    targets: list[int] = field(default_factory=list)

    @property
    def wall_ns(self) -> int:
        return self.end_ns - self.start_ns


class Flow:
    """One driver of one device: moves its balloon and leaves spans."""

    def __init__(
        self,
        *,
        device: int = 0,
        tid: int = 100,
        clock_ns: int = 1_000_000_000,
        fill_is_symbol: bool = False,
        config_traced: bool = True,
        times: Times | None = None,
    ) -> None:
        self.device, self.tid, self.now = device, tid, clock_ns
        self.fill_is_symbol, self.config_traced = fill_is_symbol, config_traced
        self.times = times or Times()
        self.actual = self.target = 0
        self.spans: list[Span] = []
        self.expected: list[Expected] = []
        self.vmstat = {"balloon_inflate": 0, "balloon_deflate": 0, "balloon_migrate": 0}
        self.payloads: list[Payload] = []
        self._items = 0

    def span(self, function: Function, start_ns: int, tid: int | None = None, **fields: int) -> None:
        """Record a call that returns now."""
        flags = SpanFlag.DEVICE
        for name in fields:
            flags |= _FLAG_OF.get(name, SpanFlag(0))
        self.spans.append(
            Span(
                start_ns=start_ns,
                duration_ns=self.now - start_ns,
                tid=self.tid if tid is None else tid,
                function=int(function),
                flags=int(flags),
                device=self.device,
                **fields,
            )
        )

    def drop(self, function: Function) -> None:
        """None of its calls was traced."""
        self.spans = [span for span in self.spans if span.function != function]

    def silence(self, flags: SpanFlag, *functions: Function) -> None:
        """The calls of those functions, or all, do not tell what these flags stand for."""
        unsaid = {name: 0 for name, flag in _FLAG_OF.items() if flag & flags}
        self.spans = [
            span._replace(flags=span.flags & ~flags, **unsaid)
            if not functions or span.function in functions
            else span
            for span in self.spans
        ]

    def carry(self, function: Function, data: bytes, *, tid: int | None = None) -> None:
        """What the send that returns now carried."""
        start_ns = self.spans[-1].start_ns
        self.payloads.append(Payload(start_ns, self.tid if tid is None else tid, function, data))

    def interrupt(self, target_pages: int) -> None:
        """The host asks for another size; the interrupt lands on some other thread."""
        self.target = target_pages
        start_ns = self.now
        self.now += self.times.interrupt
        self.span(Function.VIRTBALLOON_CHANGED, start_ns, tid=0)
        self.now += self.times.interrupt_to_work - self.times.interrupt

    def resize(
        self, target_pages: int, *, max_items: int | None = None, moves: Mapping[int, int] | None = None
    ) -> Expected:
        """Interrupt, then work items until the target is met; `moves` sets a new target before item n."""
        kind = "inflate" if target_pages > self.actual else "deflate"
        expected = Expected(self.device, kind, self.now, targets=[target_pages])
        self.interrupt(target_pages)
        expected.interrupt_ns = self.now - expected.start_ns
        self.expected.append(expected)
        return self.work(expected, max_items=max_items, moves=moves)

    def work(
        self,
        expected: Expected,
        *,
        max_items: int | None = None,
        moves: Mapping[int, int] | None = None,
        granted: Iterable[int] = (),
    ) -> Expected:
        """Work items of an operation; `granted` says how many pages each of the first allocations gets."""
        done, grants = 0, iter(granted)
        while self.actual != self.target and (max_items is None or done < max_items):
            if expected.end_ns:
                expected.requeue_ns += self.times.requeue
                self.now += self.times.requeue
            if moves and done in moves:
                self.target = moves[done]
                expected.targets.append(self.target)
            self._item(expected, next(grants, None))
            done += 1
        return expected

    def idle_item(self) -> None:
        """A work item which finds nothing to do."""
        start_ns = self.now
        self.now += self.times.config_get + 100
        self._work_span(start_ns)

    def migrate(self, *, tid: int = 77) -> None:
        """Compaction moves one balloon page: two sends, not of any operation."""
        start_ns = self.now
        for queue in (Queue.INFLATE, Queue.DEFLATE):
            self._send(queue, 1, tid=tid)
        self.span(Function.VIRTBALLOON_MIGRATEPAGE, start_ns, tid=tid, result=0)
        self.vmstat["balloon_migrate"] += 1

    def oom(self, pages: int = 256, *, tid: int = 78) -> None:
        """The guest runs out of memory and takes pages back."""
        start_ns = self.now
        self._leak(pages, tid=tid)
        self.now += self.times.config_set
        self.span(
            Function.VIRTIO_BALLOON_OOM_NOTIFY,
            start_ns,
            tid=tid,
            result=1,
        )

    def remove_driver(self, *, tid: int = 79) -> None:
        """rmmod: everything is given back outside of any work item."""
        while self.actual:
            self._leak(min(self.actual, PAGES_PER_SEND), tid=tid)

    def _leak(self, pages: int, *, tid: int) -> None:
        start_ns = self.now
        self._send(Queue.DEFLATE, pages, tid=tid)
        self.actual -= pages
        self.vmstat["balloon_deflate"] += pages
        self.span(Function.LEAK_BALLOON, start_ns, tid=tid, pages=pages, result=pages)

    def _send(self, queue: Queue, pages: int, *, tid: int) -> int:
        # Each send takes another time, so that quantiles differ.
        duration_ns = self.times.send + self._items % 1000
        start_ns = self.now
        self.now += duration_ns
        self.span(Function.TELL_HOST, start_ns, tid=tid, queue=int(queue), pages=pages)
        self.acknowledge()
        return duration_ns

    def acknowledge(self) -> None:
        """The send that returns now was woken by an interrupt."""
        if self.times.running is not None:
            send = self.spans[-1]
            acked_ns = send.duration_ns - self.times.running
            self.spans[-1] = send._replace(flags=send.flags | SpanFlag.ACK, wait_ns=acked_ns)

    def _item(self, expected: Expected, granted: int | None) -> None:
        times, start_ns = self.times, self.now
        self._items += 1
        direction = 1 if self.target > self.actual else -1
        wanted = min(PAGES_PER_SEND, abs(self.target - self.actual))
        pages = wanted if granted is None else min(granted, wanted)
        self.now += times.config_get + times.before_body
        body_ns, send_ns = self._body(direction, pages, short=pages < wanted)
        self.actual += direction * pages
        self.now += times.after_body + times.config_set
        self._work_span(start_ns)
        self.vmstat["balloon_inflate" if direction > 0 else "balloon_deflate"] += pages
        before_ns = times.before_body + (0 if self.config_traced else times.config_get)
        after_ns = times.after_body + times.config_set
        if direction > 0 and not self.fill_is_symbol:
            # The work item stands in, up to the end of its send; without a send, as a whole.
            tail_ns = times.after_send + after_ns if pages else 0
            expected.a_ns += before_ns + body_ns + after_ns - send_ns - tail_ns
            expected.outside_body_ns += tail_ns
        else:
            expected.a_ns += body_ns - send_ns
            expected.outside_body_ns += before_ns + after_ns
        expected.bcd_ns += send_ns
        expected.config_ns += times.config_get if self.config_traced else 0
        expected.pages += pages
        expected.sends += pages > 0
        expected.short += pages < wanted
        expected.end_ns = self.now

    def _body(self, direction: int, pages: int, *, short: bool) -> tuple[int, int]:
        times, start_ns, send_ns = self.times, self.now, 0
        self.now += times.allocate + (times.failed_allocation if short else 0)
        if pages:
            send_ns = self._send(Queue.INFLATE if direction > 0 else Queue.DEFLATE, pages, tid=self.tid)
        self.now += times.after_send
        if direction < 0:
            self.span(Function.LEAK_BALLOON, start_ns, pages=pages, result=pages)
        elif self.fill_is_symbol:
            self.span(Function.FILL_BALLOON, start_ns, pages=pages, result=pages)
        return self.now - start_ns, send_ns

    def _work_span(self, start_ns: int) -> None:
        fields = {}
        if self.config_traced:
            fields = {
                "config_calls": 1,
                "config_ns": self.times.config_get,
                "target_pages": self.target,
                "actual_pages": self.actual,
            }
        if self.times.run_delay is not None:
            fields["wait_ns"] = self.times.run_delay
        self.span(Function.UPDATE_BALLOON_SIZE_FUNC, start_ns, **fields)


_FLAG_OF = {
    "device": SpanFlag.DEVICE,
    "queue": SpanFlag.QUEUE,
    "pages": SpanFlag.PAGES,
    "result": SpanFlag.RESULT,
    "target_pages": SpanFlag.TARGET,
    "actual_pages": SpanFlag.ACTUAL,
    "config_ns": SpanFlag.CONFIG,
    "wait_ns": SpanFlag.RUN_DELAY,
    "bytes": SpanFlag.BYTES,
}


def typical_flow(*, fill_is_symbol: bool = False, config_traced: bool = True) -> Flow:
    """An inflate of 16 MiB, migration noise, then a deflate; a shape most tests can use."""
    flow = Flow(fill_is_symbol=fill_is_symbol, config_traced=config_traced)
    flow.resize(4 * 1024)
    flow.now += 1_000_000
    flow.migrate()
    flow.idle_item()
    flow.now += 1_000_000
    flow.resize(100)
    return flow
