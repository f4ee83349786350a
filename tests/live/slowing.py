# SPDX-License-Identifier: GPL-2.0-or-later
"""What tests of a slowed device share: every second inflate is slowed, and compared with those around it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tracing import Json, move

import lab
from lab.vhost import NO_EXTRA, ExtraTime

MS = 1_000_000
# With this the device says what its calls took, held or not.
TIMED = ("--time-calls",)
# By the clock of the world what was spent must be found in the right place to a fifth; elsewhere is noise.
FOUND = 0.2
_TIMES = ("extra_ns", "held_ns", "calls_ns")

Times = Mapping[str, int]


@dataclass(frozen=True)
class Slowed:
    """One slowed inflate: what the device says it spent more, and by how much each stage was longer.

    `outside_ns` was spent on purpose, between calls. `inside_ns` is by how much its calls were longer than
    those of its neighbours: the time they were held, and what it took to go on.
    """

    extra: ExtraTime
    outside_ns: int
    held_ns: int
    inside_ns: float
    growth_ns: Mapping[str, float]

    @property
    def spent_ns(self) -> float:
        """All of it, wherever."""
        return self.outside_ns + self.inside_ns

    def assert_spent(self, buffers: int, discards: int) -> None:
        """The device spent at least what it was asked to."""
        asked_ns = buffers * self.extra.per_buffer_ns + discards * self.extra.per_discard_ns
        assert self.outside_ns >= asked_ns
        assert (self.outside_ns > 0) == (asked_ns > 0)
        assert self.held_ns >= discards * self.extra.in_discard_ns
        assert (self.held_ns > 0) == (self.extra.in_discard_ns > 0)

    def assert_found(self, stages: Mapping[str, float], most_off: float = FOUND) -> None:
        """Each of `stages` grew by the amount given there, and the others by nothing that counts."""
        assert set(stages) <= set(self.growth_ns)
        for name, growth_ns in self.growth_ns.items():
            assert abs(growth_ns - stages.get(name, 0)) <= most_off * self.spent_ns, (name, self)

    def __str__(self) -> str:
        found = ", ".join(
            f"{name} {value / MS:+.1f} ({value / self.spent_ns:+.1%})"
            for name, value in self.growth_ns.items()
        )
        spent = f"{self.outside_ns / MS:.1f} outside calls, {self.inside_ns / MS:.1f} inside"
        return f"{self.extra}: spent, ms: {spent} (held {self.held_ns / MS:.1f}); found: {found}"


def alternate(extras: Sequence[ExtraTime]) -> list[ExtraTime]:
    """None before, after and between."""
    return [NO_EXTRA, *(each for extra in extras for each in (extra, NO_EXTRA))]


def inflate_and_deflate(
    guest: lab.Guest, full_mib: int, mib: int, extras: Sequence[ExtraTime], timeout_s: float
) -> list[Times]:
    """An inflate with each of `extras`, each followed by a deflate with none; what the device says of each.

    Its log says it a buffer at a time, and its totals in one number.
    """
    device = guest.backend
    spent: list[Times] = []
    for extra in extras:
        before, known = device.status()["inflate"], len(device.buffers("inflate"))
        device.set_extra_time(extra)
        move(guest, full_mib - mib, timeout_s)
        device.set_extra_time(NO_EXTRA)
        after, logged = device.status()["inflate"], device.buffers("inflate")[known:]
        times = {name: after[name] - before[name] for name in _TIMES}
        assert {name: sum(each[name] for each in logged) for name in _TIMES} == times
        spent.append(times)
        move(guest, full_mib, timeout_s)
    return spent


def find_slowed(found: Json, extras: Sequence[ExtraTime], spent: Sequence[Times]) -> Iterator[Slowed]:
    """Each slowed inflate of a report against the mean of its two neighbours, which were not; printed too."""
    inflates = [stages(each) for each in found["operations"] if each["kind"] == "inflate"]
    assert len(inflates) == len(extras) == len(spent)
    for index, extra in enumerate(extras):
        if extra == NO_EXTRA:
            assert (spent[index]["extra_ns"], spent[index]["held_ns"]) == (0, 0)
            continue
        one = Slowed(
            extra,
            spent[index]["extra_ns"],
            spent[index]["held_ns"],
            growth(spent, index, "calls_ns"),
            {name: growth(inflates, index, name) for name in inflates[index]},
        )
        print(one)
        yield one


def growth(values: Sequence[Mapping[str, int]], index: int, name: str) -> float:
    """One value less the mean of those before and after it."""
    before, this, after = (each[name] for each in values[index - 1 : index + 2])
    return this - (before + after) / 2


def stages(operation: Json) -> dict[str, int]:
    """Time by stage, of those that make up the operation; each must have been measured."""
    return {row["stage"]: row["total_ns"] for row in operation["stages"] if row["part_of"] is None}
