# SPDX-License-Identifier: GPL-2.0-or-later
"""What `balloontrace serve` hands to Prometheus: sums of the programs as families of metrics."""
