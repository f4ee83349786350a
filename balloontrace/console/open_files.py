# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether somebody still writes to a file."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


def is_open_for_writing(path: Path) -> bool:
    """Whether any process may have a file open for writing.

    The kernel gives no read lease on such a file (F_SETLEASE in fcntl(2)). It gives none at all on network
    file systems, where somebody always may. OSError where the file cannot be opened.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError:
        return True
    else:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        return False
    finally:
        os.close(fd)
