# SPDX-License-Identifier: GPL-2.0-or-later
"""Calls that may never return: made in turn, waited for only so long, and not made once nobody waits."""

from __future__ import annotations

import threading
import time

import pytest

from balloontrace.measure import bounded_calls
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


def test_behind_a_call_that_hangs_nobody_waits_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until that call has ended after all."""
    monkeypatch.setattr(bounded_calls, "_BEHIND_ANOTHER_S", 0.4)
    calls = BoundedCalls("test", 60.0)
    goes_on = threading.Event()
    with pytest.raises(TimeoutError):
        calls.ask(goes_on.wait, patience_s=0.5)
    started_s = time.monotonic()
    with pytest.raises(TimeoutError):
        calls.ask(lambda: None)
    assert time.monotonic() - started_s < 30
    goes_on.set()
    assert calls.ask(lambda: 7) == 7
    assert calls.ask(lambda: time.sleep(0.5) or "late") == "late"  # type: ignore[func-returns-value]
