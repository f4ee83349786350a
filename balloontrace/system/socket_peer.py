# SPDX-License-Identifier: GPL-2.0-or-later
"""Which process is at the other end of a Unix socket, whoever made the socket for it."""

from __future__ import annotations

import os
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from balloontrace.system.kernel import ROOT

_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid
# include/uapi/linux/{netlink,sock_diag,unix_diag}.h
_NETLINK_SOCK_DIAG, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST = 4, 20, 1
_UDIAG_SHOW_PEER, _UNIX_DIAG_PEER = 4, 2
_NO_COOKIE = 0xFFFFFFFF
_HEADER = struct.Struct("=IHHII")
_REQUEST = struct.Struct("=BBHIIIII")
_ANSWER_BYTES = 16
_ATTRIBUTE = struct.Struct("=HH")
_ANSWERS_S = 5.0


def find_peer(connection: socket.socket, root: Path = ROOT) -> int | None:
    """The process that has the other end open, as /proc shows it; None where nobody can tell.

    SO_PEERCRED alone would name whoever began to listen: a launcher, or libvirt.
    """
    inode = read_peer_inode(connection)
    if inode is not None:
        for pid in sorted(int(each.name) for each in (root / "proc").iterdir() if each.name.isdigit()):
            if pid != os.getpid() and str(inode) in _sockets_of(pid, root):
                return pid
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid = int(_CREDENTIALS.unpack(raw)[0])
    return pid if pid > 0 and (root / f"proc/{pid}").exists() else None


def read_peer_inode(connection: socket.socket) -> int | None:
    """The other end's inode, which the kernel tells by sock_diag(7); None where it does not."""
    inode = os.fstat(connection.fileno()).st_ino
    request = _REQUEST.pack(socket.AF_UNIX, 0, 0, 0xFFFFFFFF, inode, _UDIAG_SHOW_PEER, _NO_COOKIE, _NO_COOKIE)
    header = _HEADER.pack(_HEADER.size + len(request), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 0, 0)
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as netlink:
            netlink.settimeout(_ANSWERS_S)
            netlink.send(header + request)
            return parse_peer(netlink.recv(65536))
    except OSError:
        return None


def parse_peer(answer: bytes) -> int | None:
    """The peer's inode in one netlink message; None where it has none, as an error message has."""
    if len(answer) < _HEADER.size:
        return None
    length, kind, *_ = _HEADER.unpack_from(answer)
    if kind != _SOCK_DIAG_BY_FAMILY:
        return None
    place, end = _HEADER.size + _ANSWER_BYTES, min(length, len(answer))
    while place + _ATTRIBUTE.size <= end:
        size, name = _ATTRIBUTE.unpack_from(answer, place)
        if name == _UNIX_DIAG_PEER and size >= 8 and place + 8 <= end:
            return int.from_bytes(answer[place + 4 : place + 8], sys.byteorder)
        if size < _ATTRIBUTE.size:
            return None
        place += -(-size // 4) * 4
    return None


def _sockets_of(pid: int, root: Path) -> Iterator[str]:
    """The inodes of a process's sockets; none of one that may not be looked into."""
    with suppress(OSError):
        for link in (root / f"proc/{pid}/fd").iterdir():
            with suppress(OSError):
                target = str(link.readlink())
                if target.startswith("socket:["):
                    yield target[8:-1]
