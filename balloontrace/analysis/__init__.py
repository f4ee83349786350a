# SPDX-License-Identifier: GPL-2.0-or-later
"""A recording, or a guest's and its host's, into a report."""
