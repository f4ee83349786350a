# SPDX-License-Identifier: GPL-2.0-or-later
"""The recording file and the bytes in it: vocabulary, layouts, counters. Needs no numpy."""
