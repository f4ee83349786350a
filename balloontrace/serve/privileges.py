# SPDX-License-Identifier: GPL-2.0-or-later
"""Gives up what only attaching needed: programs and maps hang on descriptors, and need nothing more.

capget(2), capset(2) and prctl(2) by way of the C library, as Python has no words for them.
"""

from __future__ import annotations

import ctypes
import enum
import os
from collections.abc import Collection

from balloontrace.errors import BalloontraceError

# include/uapi/linux/capability.h, include/uapi/linux/prctl.h
_VERSION_3 = 0x20080522
_WORD_BITS = 32
_SET_DUMPABLE, _SET_KEEPCAPS, _CAPBSET_READ, _CAPBSET_DROP, _SET_NO_NEW_PRIVS = 4, 8, 23, 24, 38
_NOBODY = 65534  # the kernel's own overflow id, fs.overflowuid
_AMBIENT, _AMBIENT_CLEAR_ALL = 47, 4


class Capability(enum.IntEnum):
    """Those that may be kept."""

    DAC_READ_SEARCH = 2
    SYS_PTRACE = 19


OF_HOST = frozenset({Capability.DAC_READ_SEARCH, Capability.SYS_PTRACE})
"""What it takes to see who opens /dev/kvm: the files of others in /proc."""


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Data(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint32) for name in ("effective", "permitted", "inheritable"))


def drop_privileges(kept: Collection[Capability], *, keeps_user: bool) -> None:
    """Keep these capabilities alone, if there are any, for good, in this thread and those it starts.

    Unless it `keeps_user`, root becomes nobody: files of root stay writable for root without any capability.
    BalloontraceError where the kernel refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in range(_WORD_BITS * 2):
        if capability not in kept and libc.prctl(_CAPBSET_READ, capability, 0, 0, 0) == 1:
            libc.prctl(_CAPBSET_DROP, capability, 0, 0, 0)  # refused without CAP_SETPCAP, and of no use then
    libc.prctl(_AMBIENT, _AMBIENT_CLEAR_ALL, 0, 0, 0)
    if not keeps_user and os.geteuid() == 0:
        libc.prctl(_SET_KEEPCAPS, 1, 0, 0, 0)
        os.setgroups([])
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    header, held = _Header(_VERSION_3, 0), (_Data * 2)()
    _checked(libc.capget(ctypes.byref(header), held), "capget")
    wanted = sum(1 << capability for capability in kept)
    for word, data in enumerate(held):
        data.permitted &= wanted >> word * _WORD_BITS & 0xFFFFFFFF
        data.effective, data.inheritable = data.permitted, 0
    _checked(libc.capset(ctypes.byref(header), held), "capset")
    _checked(libc.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "PR_SET_NO_NEW_PRIVS")
    # Its own descriptors in /proc stay readable, which say what the kernel counted.
    libc.prctl(_SET_DUMPABLE, 1, 0, 0, 0)


def _checked(result: int, what: str) -> None:
    if result:
        reason = os.strerror(ctypes.get_errno())
        raise BalloontraceError(f"cannot give up privileges: {what}: {reason}")
