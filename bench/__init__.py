# SPDX-License-Identifier: GPL-2.0-or-later
"""Benchmarks: the figures the project promises, measured and held to their targets."""
