# SPDX-License-Identifier: GPL-2.0-or-later
"""balloontrace shows where the time of a live memory balloon goes."""

__version__ = "0.1.0"
