# SPDX-License-Identifier: GPL-2.0-or-later
"""Everything that can be shown, as plain frozen data; None always means "not measured"."""
