# SPDX-License-Identifier: GPL-2.0-or-later
"""Single events of recordings: as rows, and on one time line."""
