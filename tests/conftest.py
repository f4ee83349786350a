# SPDX-License-Identifier: GPL-2.0-or-later
"""What all tests share: Ctrl-C works in what they start, however they were started themselves."""

from __future__ import annotations

import signal

# A shell without job control has its background commands ignore SIGINT, and what they start inherits that.
signal.signal(signal.SIGINT, signal.default_int_handler)
