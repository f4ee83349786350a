# SPDX-License-Identifier: GPL-2.0-or-later
"""The rounds that `measure` made, for people and for programs."""
