# SPDX-License-Identifier: GPL-2.0-or-later
"""Signals ignored from some moment on, also those that come at that very moment."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

_IGNORED = "ignored due to race condition"


def ignore_signals(numbers: Iterable[int]) -> None:
    """From here on they do nothing, nor to what is started.

    Python runs the handler of a signal some time after any thread got it. Should that one be ignored by then,
    which is what was wanted, it says so with a traceback.
    """
    sys.unraisablehook = _say_other_things
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)


def _say_other_things(unraisable: UnraisableHookArgs) -> None:
    if not (isinstance(unraisable.exc_value, OSError) and _IGNORED in str(unraisable.exc_value)):
        sys.__unraisablehook__(unraisable)
