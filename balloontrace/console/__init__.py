# SPDX-License-Identifier: GPL-2.0-or-later
"""What a person sees besides results: messages, options, progress, output files, the terminal."""
