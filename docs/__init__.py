# SPDX-License-Identifier: GPL-2.0-or-later
"""What is written about balloontrace, and what makes it."""
