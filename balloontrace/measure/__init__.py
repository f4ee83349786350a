# SPDX-License-Identifier: GPL-2.0-or-later
"""Drives the balloon of a VM and has both of its sides recorded, round by round."""
