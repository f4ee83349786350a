# SPDX-License-Identifier: GPL-2.0-or-later
"""Facts of the running machine: its kernel, its types, its VMs. Needs no numpy."""
