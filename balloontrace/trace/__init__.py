# SPDX-License-Identifier: GPL-2.0-or-later
"""Attach, collect, write: one recording. What only one side has is in guest/ or host/. Needs no numpy."""
