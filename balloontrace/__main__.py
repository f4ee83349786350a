# SPDX-License-Identifier: GPL-2.0-or-later
"""Entry point of `balloontrace` and `python -m balloontrace`."""

from balloontrace.cli import main

if __name__ == "__main__":
    main()
