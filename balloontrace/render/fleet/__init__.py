# SPDX-License-Identifier: GPL-2.0-or-later
"""An answer as text, table, CSV or page."""
