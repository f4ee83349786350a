# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether somebody still writes to a file."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
from pathlib import Path


def is_open_for_writing(path: Path) -> bool | None:
    """Whether any process has a file open for writing; None where the kernel does not say.

    It gives no read lease on such a file (F_SETLEASE in fcntl(2)), and none at all on network file systems
    or to others than the owner. OSError where the file cannot be opened.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        # Whoever opens it at this moment is told to wait; SIGIO, which says so, would end this process.
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as error:
        return True if error.errno == errno.EAGAIN else None
    else:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        return False
    finally:
        os.close(fd)
