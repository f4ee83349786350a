# SPDX-License-Identifier: GPL-2.0-or-later
"""One verb of the command line a module."""
