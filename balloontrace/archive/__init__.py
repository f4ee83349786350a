# SPDX-License-Identifier: GPL-2.0-or-later
"""Recordings into a dataset of Parquet files that many machines may write and read."""
