# SPDX-License-Identifier: GPL-2.0-or-later
"""`top`: what a balloon is doing now, from the sums that the programs keep."""
