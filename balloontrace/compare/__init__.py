# SPDX-License-Identifier: GPL-2.0-or-later
"""Two sets of reports into a comparison."""
