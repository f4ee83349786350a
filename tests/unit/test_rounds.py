# SPDX-License-Identifier: GPL-2.0-or-later
"""Rounds are kept whole over boots that are lost at chosen places; what differs between boots cancels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from bench.rounds import compare_pairs, whole_rounds
from lab.boot_retries import BootPanic
from lab.errors import LabError, VMFrozen, VMLost

MODES = ("none", "guest", "host")


class Hosts:
    """Every boot is lost when so much was measured in it; the last ones listed go on for ever."""

    def __init__(self, *lives: int | VMLost) -> None:
        self.lives = list(lives)
        self.booted = self.ended = 0
        self.measured: list[tuple[int, int, str]] = []  # boot, round, mode

    @contextmanager
    def boot(self) -> Iterator[Callable[[int, str], None]]:
        life = self.lives.pop(0) if self.lives else 1_000_000
        self.booted += 1
        if isinstance(life, VMLost):
            raise life
        left, number = life, self.booted

        def measure(round_number: int, mode: str) -> None:
            nonlocal left
            if not left:
                raise VMFrozen(f"host {number} stood still\nmore")
            left -= 1
            self.measured.append((number, round_number, mode))

        try:
            yield measure
        finally:
            self.ended += 1

    def rounds(self, wanted: int, most_boots: int = 10) -> Iterator[list[tuple[int, int, str]]]:
        """What each whole round measured."""

        def make_round(measure: Callable[[int, str], None], number: int) -> list[tuple[int, int, str]]:
            for mode in MODES:
                measure(number, mode)
            return self.measured[-len(MODES) :]

        return whole_rounds(self.boot, make_round, wanted=wanted, most_boots=most_boots)


def in_boot(boot: int, number: int) -> list[tuple[int, int, str]]:
    return [(boot, number, mode) for mode in MODES]


def test_rounds_in_one_boot() -> None:
    hosts = Hosts()
    assert [*hosts.rounds(3)] == [in_boot(1, number) for number in (1, 2, 3)]
    assert (hosts.booted, hosts.ended) == (1, 1)


@pytest.mark.parametrize("lost_in", range(len(MODES)))
def test_a_round_cut_off_is_made_again_in_the_next_boot(
    lost_in: int, capsys: pytest.CaptureFixture[str]
) -> None:
    hosts = Hosts(len(MODES) + lost_in)
    assert [*hosts.rounds(3)] == [in_boot(1, 1), in_boot(2, 2), in_boot(2, 3)]
    assert len(hosts.measured) == 3 * len(MODES) + lost_in
    told = capsys.readouterr().err
    assert told == "  host 1 stood still; 1 of 3 rounds are whole after 1 of at most 10 boots\n"


def test_boots_without_a_whole_round_and_without_a_guest() -> None:
    hosts = Hosts(2, BootPanic(VMLost("panicked"), ""), 5, VMFrozen("while booting"), 0, 4)
    assert [*hosts.rounds(3)] == [in_boot(3, 1), in_boot(6, 2), in_boot(7, 3)]
    assert (hosts.booted, hosts.ended) == (7, 5)


def test_boots_are_bounded_and_what_is_whole_was_handed_out() -> None:
    hosts = Hosts(3, 2, 2, 2)
    rounds = hosts.rounds(2, most_boots=4)
    assert next(rounds) == in_boot(1, 1)
    with pytest.raises(LabError, match="Only 1 of 2 rounds became whole in 4 boots"):
        next(rounds)
    assert (hosts.booted, hosts.ended) == (4, 4)


def test_another_error_is_not_tried_again() -> None:
    hosts = Hosts(VMLost("QEMU was killed"))
    with pytest.raises(VMLost, match="killed"):
        next(hosts.rounds(1))
    assert hosts.booted == 1


def test_what_differs_between_boots_cancels() -> None:
    none = [780.0, 1560.0, 390.0]  # three boots
    change = compare_pairs([(time * 1.002, time) for time in none])
    assert change.percent == pytest.approx(0.2)
    assert change.error == pytest.approx(0, abs=1e-9)
    assert str(compare_pairs([(101.0, 100.0), (103.0, 100.0)])) == "+2.00 \u00b1 1.00 %"
    assert str(compare_pairs([(99.0, 100.0)])) == "-1.00 %"  # one round tells no error
