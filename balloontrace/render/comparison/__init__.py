# SPDX-License-Identifier: GPL-2.0-or-later
"""A comparison as text: for people and for programs."""
