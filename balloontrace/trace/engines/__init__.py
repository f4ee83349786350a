# SPDX-License-Identifier: GPL-2.0-or-later
"""Ways to get BPF programs attached: one request and one answer, an engine a file."""
