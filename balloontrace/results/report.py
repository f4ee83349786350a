# SPDX-License-Identifier: GPL-2.0-or-later
"""Everything that can be shown about a recording, as plain frozen data; None always means "not measured".

Field names are the names in the JSON report: they are only ever added to. Times are integer nanoseconds,
pages are 4 KiB units, shares are fractions of one.
"""

from __future__ import annotations

from dataclasses import dataclass

from balloontrace.results.balloon import Balloon
from balloontrace.results.host_side import HostSide
from balloontrace.results.operation import (
    Operation,
    Total,
)
from balloontrace.results.other_operation import OtherOperation, StatisticsQueue
from balloontrace.results.page_hinting import PageHinting
from balloontrace.results.page_reporting import PageReporting
from balloontrace.results.recorder import Loss, OwnCost
from balloontrace.results.recording_header import DriverGap, Header

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Check:
    """Two counts of the same thing from independent sources; `agrees` is None if one was not measured."""

    name: str
    spans: int | None
    independent: int | None
    source: str
    agrees: bool | None
    note: str | None = None


@dataclass(frozen=True, slots=True)
class Outside:
    """Calls that belong to no operation, and what they are."""

    what: str
    calls: int
    pages: int | None
    total_ns: int


@dataclass(frozen=True, slots=True)
class Report:
    """A recording, analysed.

    `events_lost` were lost while recording; `spans_missing` were recorded, and are not in the file any more,
    the host's batches among them. `pages_moved` into and out of balloons while probes were attached, by
    /proc/vmstat; `pages_unseen` of them are in no span. `page_reporting` and `page_hinting` are None where no
    probe showed them. `recorded_ns` is how long the guest was recorded; of a recording that was cut off,
    until its last call.
    """

    schema_version: int
    header: Header
    complete: bool
    ended: str | None
    spans: int
    events_lost: int | None
    events_seen: int | None
    spans_missing: int | None
    warnings: tuple[str, ...]
    operations: tuple[Operation, ...]
    totals: tuple[Total, ...]
    outside: tuple[Outside, ...]
    checks: tuple[Check, ...]
    losses: tuple[Loss, ...]
    not_measured: tuple[str, ...]
    own_cost: OwnCost | None
    host: HostSide | None = None
    pages_moved: int | None = None
    pages_unseen: int | None = None
    balloons: tuple[Balloon, ...] = ()
    driver_gaps: tuple[DriverGap, ...] = ()
    page_reporting: PageReporting | None = None
    other_operations: tuple[OtherOperation, ...] = ()
    statistics: tuple[StatisticsQueue, ...] = ()
    page_hinting: PageHinting | None = None
    recorded_ns: int | None = None
