# SPDX-License-Identifier: GPL-2.0-or-later
"""What only the host's side of tracing has: the calls of one process, and their batches."""
