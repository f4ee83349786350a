# SPDX-License-Identifier: GPL-2.0-or-later
"""The flow of a driver with the page-bitmap patch, which sends records of bitmaps."""

from __future__ import annotations

from flows import Expected, Flow, Times

from balloontrace.format.vocabulary import Function, Queue


class PatchedFlow(Flow):
    """A driver with the page-bitmap patch: one work item an operation, in windows of one send or more."""

    def __init__(
        self,
        *,
        sends_of_windows: tuple[int, ...] = (1,),
        bitmaps: int = 2,
        bitmap_is_symbol: bool = True,
        send_bytes: int = 640,
        times: Times | None = None,
    ) -> None:
        super().__init__(times=times)
        self.sends_of_windows, self.bitmaps, self.send_bytes = sends_of_windows, bitmaps, send_bytes
        self.bitmap_is_symbol = bitmap_is_symbol

    def migrate(self, *, tid: int = 77) -> None:
        """Compaction moves one balloon page: two sends of one record."""
        start_ns = self.now
        for queue in (Queue.INFLATE, Queue.DEFLATE):
            self._send_records(queue, 8, tid=tid)
        self.span(Function.VIRTBALLOON_MIGRATEPAGE, start_ns, tid=tid, result=0)
        self.vmstat["balloon_migrate"] += 1

    def _send_records(self, queue: Queue, count: int, *, tid: int) -> int:
        start_ns = self.now
        self.now += self.times.send
        self.span(Function.SEND_RESP_DATA, start_ns, tid=tid, queue=int(queue), bytes=count)
        self.acknowledge()
        return self.now - start_ns

    def _item(self, expected: Expected, granted: int | None) -> None:
        times, start_ns = self.times, self.now
        direction = 1 if self.target > self.actual else -1
        wanted = abs(self.target - self.actual)
        pages = wanted if granted is None else min(granted, wanted)
        queue = Queue.INFLATE if direction > 0 else Queue.DEFLATE
        self.now += times.config_get + times.before_body
        body_start_ns = self.now
        self.now += times.extend
        self.span(Function.EXTEND_PAGE_BITMAP, self.now - times.extend)
        self.now += times.allocate + (times.failed_allocation if pages < wanted else 0)
        build_ns, send_ns = self._windows(queue, pages) if pages else (0, 0)
        bitmap_end_ns = self.now
        self.now += times.after_send
        if direction < 0:
            self.span(Function.LEAK_BALLOON, body_start_ns, pages=pages, result=pages)
        body_end_ns = self.now
        self.now += times.after_body + times.config_set
        self.actual += direction * pages
        self._work_span(start_ns)
        self.vmstat["balloon_inflate" if direction > 0 else "balloon_deflate"] += pages
        if direction > 0:
            body_start_ns = start_ns + times.config_get
            body_end_ns = bitmap_end_ns if pages else self.now
        expected.a_ns += body_end_ns - body_start_ns - build_ns - send_ns
        expected.outside_body_ns += self.now - start_ns - times.config_get - (body_end_ns - body_start_ns)
        expected.extend_ns += times.extend
        expected.build_ns += build_ns
        expected.bcd_ns += send_ns
        expected.config_ns += times.config_get
        expected.pages += pages
        expected.sends += sum(self.sends_of_windows) if pages else 0
        expected.short += pages < wanted
        expected.end_ns = self.now

    def _windows(self, queue: Queue, pages: int) -> tuple[int, int]:
        """set_page_bitmap: the time of building, as far as it can be told, and that of sending."""
        times, start_ns, send_ns, unseen_ns = self.times, self.now, 0, 0
        for sends in self.sends_of_windows:
            self.now += times.pass_
            unseen_ns += 0 if self.bitmap_is_symbol else times.pass_
            window_ns = self.now
            for _ in range(sends):
                self.now += times.records
                send_ns += self._send_records(queue, self.send_bytes, tid=self.tid)
            counted = {} if self.bitmap_is_symbol else {"pages": pages}
            self.span(Function.TELL_HOST, window_ns, queue=int(queue), **counted)
        if self.bitmap_is_symbol:
            self.now += 100
            self.span(
                Function.SET_PAGE_BITMAP, start_ns, queue=int(queue), pages=pages,
                passes=len(self.sends_of_windows), bitmaps=self.bitmaps,
            )  # fmt: skip
        return self.now - start_ns - send_ns - unseen_ns, send_ns
