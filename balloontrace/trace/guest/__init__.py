# SPDX-License-Identifier: GPL-2.0-or-later
"""What only the guest's side of tracing has: its driver's functions, and their spans."""
