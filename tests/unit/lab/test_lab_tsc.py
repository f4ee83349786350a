# SPDX-License-Identifier: GPL-2.0-or-later
"""The rate of the time stamp counter, which is measured on this machine."""

from __future__ import annotations

import platform

import pytest

from lab.tsc import clock_arguments, measure_tsc_khz


def test_the_rate_is_steady_and_told_to_the_kernel() -> None:
    rates = [measure_tsc_khz() for _ in range(2)]
    assert rates[0] is not None
    assert rates[0] == pytest.approx(rates[1], rel=0.01)
    rate, reliable = clock_arguments()
    name, _, khz = rate.partition("=")
    assert (name, reliable) == ("tsc_early_khz", "tsc=reliable")
    assert int(khz) == pytest.approx(rates[0], rel=0.01)


def test_another_machine_has_no_such_counter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert measure_tsc_khz() is None
    assert clock_arguments() == ()
