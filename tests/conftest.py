# SPDX-License-Identifier: GPL-2.0-or-later
"""What all tests share: signals work in what they start, and no example fails for a busy machine's sake."""

from __future__ import annotations

import gc
import signal

from hypothesis import settings

# A shell without job control has its background commands ignore SIGINT, and nohup its command SIGHUP:
# what they start inherits that.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Thousands of tests make objects that stay: looking through them often takes a tenth of the time.
gc.set_threshold(200_000, 50, 50)

settings.register_profile("balloontrace", deadline=None)
settings.load_profile("balloontrace")


def pytest_unconfigure() -> None:
    """What is left ends with its process: going through all of it once more took seconds of each."""
    gc.freeze()
