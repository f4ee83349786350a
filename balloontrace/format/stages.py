# SPDX-License-Identifier: GPL-2.0-or-later
"""The stages of an operation, each written once: its code, names, place, whole, and colours, in order.

A stage that can be told is one row of STAGES, and a series of durations where it is measured
(`analysis/stages`). Reports, comparisons, live views, pictures and the style sheet all go by this table.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from balloontrace.format.vocabulary import Kind


class Place(enum.StrEnum):
    """Where a stage runs."""

    GUEST_KERNEL = "guest kernel"
    GUEST_AND_HOST = "guest and host"
    HOST_USER = "host user space"
    HOST_KERNEL = "host kernel"

    @property
    def short(self) -> str:
        """For a narrow column."""
        return _SHORT_PLACES[self]


_SHORT_PLACES = {
    Place.GUEST_KERNEL: "guest",
    Place.GUEST_AND_HOST: "both",
    Place.HOST_USER: "VMM",
    Place.HOST_KERNEL: "host",
}


class Names(NamedTuple):
    """What a stage is called; the short name is for a column of 19 letters."""

    name: str
    short: str


class Colours(NamedTuple):
    """In a picture, on a light page and on a dark one."""

    light: str
    dark: str


@dataclass(frozen=True, slots=True)
class Stage:
    """One row of a stage table, by its `code` in every output.

    A finer row is `part_of` another one. A coarse stage stands for `instead_of` others where a recording
    cannot tell them apart. Without `colours` it is not drawn. `of_kind` has names for one kind of operation.
    """

    code: str
    name: str
    short: str
    where: Place
    part_of: str | None = None
    instead_of: tuple[str, ...] = ()
    colours: Colours | None = None
    of_kind: Mapping[Kind, Names] = field(default_factory=dict)

    @property
    def css_class(self) -> str:
        """What gives it its colour in pictures."""
        return f"s-{self.code.replace('+', '').replace('.', '-').replace('_', '-')}"

    def name_for(self, kind: Kind) -> str:
        """Its name in operations of one kind."""
        return self.of_kind[kind].name if kind in self.of_kind else self.name

    def short_for(self, name: str, part_of: str | None) -> str:
        """What a row that has this name is called in a narrow column; parts are marked by a dash."""
        short = next((each.short for each in self.of_kind.values() if each.name == name), self.short)
        if part_of is not None:
            return f"- {short}"
        # Without its whole it is a stage of its own.
        return short if self.part_of is None else f"{self.part_of} {short}"


_ALLOCATE = "allocate"
_RELEASE = "release"
_SEND_COLOURS = Colours("#b0540a", "#f0a050")

A = Stage(
    "a", f"{_ALLOCATE} or {_RELEASE}", f"a {_ALLOCATE}, {_RELEASE}", Place.GUEST_KERNEL,
    colours=Colours("#1f6fb2", "#5aa9e6"),
    of_kind={
        Kind.INFLATE: Names(_ALLOCATE, f"a {_ALLOCATE}"),
        Kind.DEFLATE: Names(_RELEASE, f"a {_RELEASE}"),
    },
)  # fmt: skip
EXTEND = Stage("a.extend", "memory for bitmaps", "bitmap memory", Place.GUEST_KERNEL, "a")
A_RECLAIM = Stage("a.reclaim", "direct reclaim", "direct reclaim", Place.GUEST_KERNEL, "a")
A_COMPACTION = Stage("a.compaction", "compaction", "compaction", Place.GUEST_KERNEL, "a")
A_PUFF = Stage(
    "a.puff", 'sleeping for want of a page ("Out of puff")', "asleep for a page", Place.GUEST_KERNEL, "a"
)
A_LOCK = Stage("a.lock", "waiting for locks", "waiting for lock", Place.GUEST_KERNEL, "a")
A_OFF_CPU = Stage("a.off_cpu", "time off the processor", "off the processor", Place.GUEST_KERNEL, "a")
A_REST = Stage(
    "a.rest", "the allocator, and what is left", "allocator, rest", Place.GUEST_KERNEL, "a",
    of_kind={Kind.DEFLATE: Names("releasing, and what is left", "releasing, rest")},
)  # fmt: skip
B = Stage("b", "send", "b send", Place.GUEST_AND_HOST, colours=_SEND_COLOURS)
BUILD = Stage(
    "b.build", "build", "build bitmaps", Place.GUEST_KERNEL, "b", colours=Colours("#76650c", "#d5bd52")
)
TO_HOST = Stage("b.to_host", "guest to host", "to host", Place.GUEST_AND_HOST, "b", colours=_SEND_COLOURS)
BACK = Stage(
    "b.back", "host to guest", "back to guest", Place.GUEST_AND_HOST, "b",
    colours=Colours("#8c3f00", "#f7c793"),
)  # fmt: skip
INTERRUPT_BACK = Stage(
    "b.interrupt", "host to interrupt", "to interrupt", Place.GUEST_AND_HOST, "b",
    colours=Colours("#8c3f00", "#f7c793"),
)  # fmt: skip
RUNNING = Stage(
    "b.running", "interrupt to running again", "until running", Place.GUEST_KERNEL, "b",
    colours=Colours("#5a6b1e", "#b9cf6a"),
)  # fmt: skip
C = Stage("c", "translate", "c translate", Place.HOST_USER, colours=Colours("#7546a8", "#c0a0ee"))
D = Stage("d", "madvise", "d madvise", Place.HOST_KERNEL, colours=Colours("#b3234f", "#f5809c"))
BCD = Stage(
    "b+c+d", f"{B.name}..{D.name}", f"b+c+d {B.name}..{D.name}", Place.GUEST_AND_HOST,
    instead_of=("b", "c", "d"), colours=_SEND_COLOURS,
    of_kind=dict.fromkeys(Kind, Names(f"{B.name}..{D.name}, unsplit", f"b+c+d {B.name}..{D.name}")),
)  # fmt: skip
BCD_SEND = Stage("b+c+d.send", BCD.name, BCD.name, Place.GUEST_AND_HOST, "b+c+d")
BCD_INTERRUPT = Stage(
    "b+c+d.interrupt", "until the interrupt", "until interrupt", Place.GUEST_AND_HOST, "b+c+d"
)
BCD_RUNNING = Stage(
    "b+c+d.running", "interrupt to running again", "until running", Place.GUEST_KERNEL, "b+c+d"
)
BCD_FOUND = Stage("b+c+d.found", "no interrupt seen", "no interrupt seen", Place.GUEST_AND_HOST, "b+c+d")
ABCD = Stage(
    "a+b+c+d", f"{_ALLOCATE}..{D.name}", "a+b+c+d", Place.GUEST_AND_HOST,
    instead_of=("a", "b+c+d"), colours=Colours("#5b6470", "#a3acb8"),
    of_kind={
        Kind.INFLATE: Names(f"{_ALLOCATE}..{D.name}", f"{_ALLOCATE}..{D.name}"),
        Kind.DEFLATE: Names(f"{_RELEASE}..{D.name}", f"{_RELEASE}..{D.name}"),
    },
)  # fmt: skip
OTHER = Stage(
    "other", "outside the stages", "other", Place.GUEST_KERNEL, colours=Colours("#6b7480", "#929ca8")
)
CONFIG = Stage("other.config", "reading the target", "reading target", Place.GUEST_KERNEL, "other")
WORK_ITEM = Stage(
    "other.work_item", "rest of work item (actual written)", "rest of work item", Place.GUEST_KERNEL, "other"
)
REQUEUE = Stage("other.requeue", "between work items (re-queue)", "re-queue", Place.GUEST_KERNEL, "other")
INTERRUPT = Stage(
    "other.interrupt", "interrupt to first work item", "interrupt to work", Place.GUEST_KERNEL, "other"
)
REST = Stage("other.rest", "remaining", "remaining", Place.GUEST_KERNEL, "other")

STAGES: tuple[Stage, ...] = (
    *(
        ABCD,
        A,
        EXTEND,
        A_RECLAIM,
        A_COMPACTION,
        A_PUFF,
        A_LOCK,
        A_OFF_CPU,
        A_REST,
        B,
        BUILD,
        TO_HOST,
        BACK,
        INTERRUPT_BACK,
        RUNNING,
    ),
    *(BCD, BCD_SEND, BCD_INTERRUPT, BCD_RUNNING, BCD_FOUND, C, D),
    *(OTHER, CONFIG, WORK_ITEM, REQUEUE, INTERRUPT, REST),
)
"""All stages, in the order in which they are shown."""


ALLOCATION_PARTS = (A_RECLAIM, A_COMPACTION, A_PUFF, A_LOCK, A_OFF_CPU)
"""Of a, where `record --split-allocation` told them apart; A_REST is what is left of it."""


def find_stage(code: str) -> Stage | None:
    """The stage of this code; None for one of a later version."""
    return next((stage for stage in STAGES if stage.code == code), None)


def drawn_stages() -> tuple[Stage, ...]:
    """Those that pictures show."""
    return tuple(stage for stage in STAGES if stage.colours is not None)


def colour_class(code: str) -> str | None:
    """The class that colours a stage in pictures; None where it is not drawn."""
    stage = find_stage(code)
    return None if stage is None or stage.colours is None else stage.css_class


def with_parts(whole: Stage) -> tuple[Stage, ...]:
    """A stage and its finer rows."""
    return whole, *(stage for stage in STAGES if stage.part_of == whole.code)


def finest_stages() -> tuple[Stage, ...]:
    """The stages that add up to an operation where both sides were recorded, without `other`."""
    return tuple(
        stage for stage in STAGES if stage.part_of is None and not stage.instead_of and stage != OTHER
    )
