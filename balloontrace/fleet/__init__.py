# SPDX-License-Identifier: GPL-2.0-or-later
"""A dataset and a question into an answer, by whatever engine ibis speaks to."""
