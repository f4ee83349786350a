# SPDX-License-Identifier: GPL-2.0-or-later
"""Two sets of recordings compared, as plain frozen data; None always means "not measured".

Field names are the names in the JSON: they are only ever added to. A replicate is one operation; times are
nanoseconds, pages are 4 KiB units, ratios are of AFTER to BEFORE: 0.5 is half, 1 is the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from balloontrace.format.vocabulary import Kind

COMPARISON_VERSION = 1

FASTER = "faster"
SLOWER = "slower"
FEWER = "fewer"
MORE = "more"
SAME = "same"
UNDECIDED = "~"

WALL = "wall"

PAIRED = "paired"
INDEPENDENT = "independent"

REPORT = "report"
HINT = "hint"
OOM = "oom"
STATISTICS = "statistics"
OF_RECORDINGS = (REPORT, HINT, OOM, STATISTICS)
"""What has no size, and is compared by recording."""

# A bound is a quotient of others than the ratio it is equal to.
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Side:
    """BEFORE or AFTER: what was given, and what its recordings say of themselves.

    The tuples have an entry for each different answer. `operations` is how many count as replicates. Sums of
    costs and losses are over all recordings, None where one does not say.
    """

    given: str
    recordings: tuple[str, ...]
    host_recordings: tuple[str, ...]
    labels: tuple[str, ...]
    driver_kinds: tuple[str, ...]
    kernel_releases: tuple[str, ...]
    operations: int
    events_lost: int | None
    events_seen: int | None
    bpf_time_ns: int | None
    cpu_ns: int | None


@dataclass(frozen=True, slots=True)
class Difference:
    """Something recorded that is not the same on both sides.

    `expected` ones are what is compared, such as the driver, and what follows from it; the others may be why
    the times differ, or may hide that they do. `text` is a sentence that says all of it.
    """

    name: str
    before: str
    after: str
    expected: bool
    text: str


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Operations of one side that are no replicate, and why not. `side` is before or after.

    `kinds` has the kind of each.
    """

    side: str
    recording: str
    operations: tuple[int, ...]
    reason: str
    kinds: tuple[Kind, ...] = ()


@dataclass(frozen=True, slots=True)
class Spread:
    """One side of a row: how many replicates have a value, and how those lie."""

    n: int
    median: float | None = None
    minimum: float | None = None
    maximum: float | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One quantity on both sides.

    `unit` is ns, B, pages, ratio, B/page, pages/send, ns/GiB, B/s, B/min, or empty for counts. `part_of`
    names the row this one is a part of. `ratio` is of the medians, or where runs are compared in pairs the
    middle of their ratios; `ratio_low` and `ratio_high` bound it at 95 %, None where no bound can be given.
    `p_value` is of the row alone, `p_adjusted` with all verdicts of its table in mind. `verdict` is a word
    above, `~` where the data cannot tell, or where medians and interval say opposites; the interval of
    such a row reaches to 1, that of a difference does not. None where nothing is judged: on parts of other
    rows, on how long recordings are, with one run each, and with four, which have an interval.
    """

    name: str
    label: str
    unit: str
    part_of: str | None
    before: Spread
    after: Spread
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    p_value: float | None = None
    p_adjusted: float | None = None
    verdict: str | None = None

    @property
    def is_of_two_kinds(self) -> bool:
        """Whether the medians' ratio lies outside its interval, which is of pairs: then they disagree.

        That takes runs of a side that are of two kinds, with the median in the gap between them.
        """
        if self.ratio is None or self.ratio_low is None or self.ratio_high is None:
            return False
        return not self.ratio_low * (1 - _ROUNDING) <= self.ratio <= self.ratio_high * (1 + _ROUNDING)

    @property
    def contradicts_itself(self) -> bool:
        """Whether medians and pairs disagree even on the direction."""
        if not self.is_of_two_kinds or self.ratio is None:
            return False
        return min(self.ratio, self.ratio_low or 0) <= 1 <= max(self.ratio, self.ratio_high or 0)


@dataclass(frozen=True, slots=True)
class Replicate:
    """One operation that counts; `values` are by the names of the rows, without those not measured."""

    recording: str
    host_recording: str | None
    operation: int
    started_ns: int
    values: Mapping[str, float]
    started_realtime_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Drift:
    """How a side's wall time changes with time, None where that is not known.

    `factor_per_run` is from one run to the next of either side, `p_value` that of no trend (Kendall).
    """

    factor_per_run: float | None = None
    p_value: float | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """All operations of one kind and size.

    `times` begins with the wall time and goes on with the stages, parts after what they are part of;
    `counts` is what was sent, served and given back. `notes` are sentences on what the data cannot tell.
    `design` is a word above; `order` tells how the sides followed each other: pairs, mixed, apart, unknown.
    """

    kind: Kind
    pages: int
    times: tuple[Row, ...]
    counts: tuple[Row, ...]
    before: tuple[Replicate, ...]
    after: tuple[Replicate, ...]
    notes: tuple[str, ...]
    design: str = INDEPENDENT
    order: str = "unknown"
    drift_before: Drift = Drift()
    drift_after: Drift = Drift()

    @property
    def wall(self) -> Row:
        """The row the headline is about."""
        return self.times[0]


@dataclass(frozen=True, slots=True)
class Run:
    """One recording, of which `values` are sums, by the names of the rows, without those not measured."""

    recording: str
    host_recording: str | None
    values: Mapping[str, float]
    started_realtime_ns: int | None = None


@dataclass(frozen=True, slots=True)
class RunGroup:
    """What whole recordings have besides inflates and deflates; `what` is a word above, from report on.

    `times` begins with how long was recorded. Otherwise as a Group.
    """

    what: str
    times: tuple[Row, ...]
    counts: tuple[Row, ...]
    before: tuple[Run, ...]
    after: tuple[Run, ...]
    notes: tuple[str, ...]
    design: str = INDEPENDENT
    order: str = "unknown"


@dataclass(frozen=True, slots=True)
class Method:
    """How intervals and verdicts were found, in words, for the foot of a page."""

    confidence: float
    interval: str
    test: str
    correction: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """BEFORE against AFTER. `warnings` hold every unexpected difference, and what is damaged or lost.

    `run_groups` has what is neither inflate nor deflate, where either side has some.
    """

    comparison_version: int
    before: Side
    after: Side
    groups: tuple[Group, ...]
    differences: tuple[Difference, ...]
    left_out: tuple[LeftOut, ...]
    warnings: tuple[str, ...]
    method: Method
    run_groups: tuple[RunGroup, ...] = ()
