# SPDX-License-Identifier: GPL-2.0-or-later
"""Calls that may never return: made in turn, waited for only so long, and not made once nobody waits."""

from __future__ import annotations

import threading

import pytest

from balloontrace.measure.bounded_calls import BoundedCalls


def test_answers_and_errors_come_back() -> None:
    calls = BoundedCalls("test", 60.0)
    assert calls.ask(lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        calls.ask(lambda: 1 // 0)
    assert calls.ask(threading.current_thread) is not threading.current_thread()


def test_what_nobody_waits_for_any_more_is_not_made() -> None:
    calls = BoundedCalls("test", 60.0)
    goes_on, made = threading.Event(), []
    with pytest.raises(TimeoutError):
        calls.ask(goes_on.wait, patience_s=0.5)
    with pytest.raises(TimeoutError):
        calls.ask(lambda: made.append("late"), patience_s=0.05)
    goes_on.set()
    calls.ask(lambda: made.append("now"))
    assert made == ["now"]
