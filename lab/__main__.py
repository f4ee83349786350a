# SPDX-License-Identifier: GPL-2.0-or-later
"""Lets `python -m lab` start the command line."""

from lab.cli import main

if __name__ == "__main__":
    main()
