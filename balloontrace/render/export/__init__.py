# SPDX-License-Identifier: GPL-2.0-or-later
"""Single events as text that other tools read."""
