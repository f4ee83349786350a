# SPDX-License-Identifier: GPL-2.0-or-later
"""Results into text: each module takes data of `results/` and returns a string, without any I/O."""
