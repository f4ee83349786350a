# SPDX-License-Identifier: GPL-2.0-or-later
"""Entry point of `balloontrace` and `python -m balloontrace`."""

import atexit
import gc
import sys


def main() -> None:
    """Run the command line; without click, which reads it, say so."""
    # What is left ends with the process: going through all of it once more took a fourth of a report's time.
    atexit.register(gc.freeze)
    try:
        from balloontrace.cli import main as run
    except ModuleNotFoundError as error:
        if error.name != "click":
            raise
        sys.exit(
            "balloontrace: this needs click, which is not installed for this python3: "
            "install python3-click (Debian, Ubuntu) or click (pip)"
        )
    run()


if __name__ == "__main__":
    main()
