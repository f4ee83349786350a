# SPDX-License-Identifier: GPL-2.0-or-later
"""Carries connections and a process's end over one stream, so that QEMU in a VM looks like one started here.

The outer end is a program: it stands for the process at the inner end, as ssh does. What connects to its
sockets is connected to those of the same name at the inner end; SIGTERM goes through; it ends as the process
did. When one end is gone, the other ends: nothing is left on either side.

A frame is a kind, a number (of a connection, a signal, an exit status) and bytes, whose length comes first.
"""

from __future__ import annotations

import contextlib
import os
import resource
import selectors
import signal
import socket
import struct
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import NoReturn, Protocol

OPEN, DATA, CLOSE, SIGNAL, EXIT = range(1, 6)
_HEADER = struct.Struct("<IBi")
_READ_BYTES = 65536


class Descriptor(Protocol):
    """A socket, or a file that was opened without a buffer."""

    def fileno(self) -> int:
        """Its number."""

    def close(self) -> None:
        """Ends it."""


def encode_frame(kind: int, number: int, content: bytes = b"") -> bytes:
    """The bytes of one frame."""
    return _HEADER.pack(len(content), kind, number) + content


def decode_frames(buffer: bytearray) -> Iterator[tuple[int, int, bytes]]:
    """Takes the whole frames off the front of `buffer`: kind, number, bytes."""
    while len(buffer) >= _HEADER.size:
        length, kind, number = _HEADER.unpack_from(buffer)
        end = _HEADER.size + length
        if len(buffer) < end:
            return
        content = bytes(buffer[_HEADER.size : end])
        del buffer[:end]
        yield kind, number, content


class Stream:
    """A descriptor that is never waited for: what cannot be written yet is kept."""

    def __init__(self, descriptor: Descriptor) -> None:
        self._descriptor = descriptor
        self._unwritten = bytearray()
        os.set_blocking(descriptor.fileno(), False)

    def fileno(self) -> int:
        """The descriptor's number."""
        return self._descriptor.fileno()

    def close(self) -> None:
        """Closes it; what is unwritten is lost."""
        self._descriptor.close()

    def read(self) -> bytes | None:
        """What has arrived; b"" at the end, also when that came as an error; None when there is nothing."""
        try:
            return os.read(self.fileno(), _READ_BYTES)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def write(self, content: bytes) -> None:
        """Writes as much as it takes, and keeps the rest. That the other end is gone is found by reading."""
        self._unwritten += content
        try:
            while self._unwritten:
                del self._unwritten[: os.write(self.fileno(), self._unwritten)]
        except BlockingIOError:
            pass
        except OSError:
            self._unwritten.clear()

    @property
    def events(self) -> int:
        """What to wait for."""
        return selectors.EVENT_READ | (selectors.EVENT_WRITE if self._unwritten else 0)


class Tunnel:
    """One end, whichever: connections by number, all carried by `trunk`."""

    def __init__(
        self,
        trunk: Descriptor,
        *,
        connect: Callable[[str], socket.socket] | None = None,
        on_signal: Callable[[int], None] = lambda _number: None,
    ) -> None:
        self.exit_status: int | None = None
        self.is_cut = False
        self._selector = selectors.DefaultSelector()
        self._trunk = Stream(trunk)
        self._arrived = bytearray()
        self._connections: dict[int, Stream] = {}
        self._connect = connect
        self._on_signal = on_signal
        self._opened = 0
        self._is_over = False
        self._selector.register(self._trunk, selectors.EVENT_READ, self._read_trunk)

    def watch(self, descriptor: Descriptor | int, action: Callable[[], None]) -> None:
        """Does `action` whenever the descriptor is readable."""
        self._selector.register(descriptor, selectors.EVENT_READ, action)

    def listen(self, listener: socket.socket, name: str) -> None:
        """Carries what connects to `listener` to what is called `name` at the other end."""
        self.watch(listener, lambda: self._accept(listener, name))

    def send(self, kind: int, number: int, content: bytes = b"") -> None:
        """Sends a frame."""
        self._trunk.write(encode_frame(kind, number, content))

    def run(self) -> None:
        """Carries until the other end is gone or has told an exit status, or until `stop`."""
        while not self._is_over:
            for key in list(self._selector.get_map().values()):
                if isinstance(key.fileobj, Stream) and key.events != key.fileobj.events:
                    self._selector.modify(key.fileobj, key.fileobj.events, key.data)
            for key, events in self._selector.select():
                if events & selectors.EVENT_WRITE and isinstance(key.fileobj, Stream):
                    key.fileobj.write(b"")
                if events & selectors.EVENT_READ:
                    key.data()

    def stop(self) -> None:
        """Makes `run` return."""
        self._is_over = True

    def finish(self, exit_status: int) -> None:
        """Carries what connections still have, then tells the other end how the process ended."""
        for number, stream in list(self._connections.items()):
            while self._read_connection(number, stream):
                pass
        os.set_blocking(self._trunk.fileno(), True)
        self.send(EXIT, exit_status)

    def _read_trunk(self) -> None:
        content = self._trunk.read()
        if content == b"":
            self.is_cut = True
            self.stop()
        self._arrived += content or b""
        for kind, number, data in decode_frames(self._arrived):
            self._obey(kind, number, data)

    def _obey(self, kind: int, number: int, data: bytes) -> None:
        if kind == OPEN and self._connect is not None:
            try:
                self._add(number, self._connect(data.decode()))
            except OSError:
                self.send(CLOSE, number)
        elif kind == DATA and number in self._connections:
            self._connections[number].write(data)
        elif kind == CLOSE:
            self._drop(number)
        elif kind == SIGNAL:
            self._on_signal(number)
        elif kind == EXIT:
            self.exit_status = number
            self.stop()

    def _accept(self, listener: socket.socket, name: str) -> None:
        self._opened += 1
        self._add(self._opened, listener.accept()[0])
        self.send(OPEN, self._opened, name.encode())

    def _add(self, number: int, connection: socket.socket) -> None:
        stream = self._connections[number] = Stream(connection)
        self._selector.register(stream, selectors.EVENT_READ, lambda: self._read_connection(number, stream))

    def _drop(self, number: int) -> None:
        stream = self._connections.pop(number, None)
        if stream is not None:
            self._selector.unregister(stream)
            stream.close()

    def _read_connection(self, number: int, stream: Stream) -> bool:
        """Carries what has arrived; whether there may be more."""
        content = stream.read() if self._connections.get(number) is stream else None
        if content:
            self.send(DATA, number, content)
        elif content == b"":
            self._drop(number)
            self.send(CLOSE, number)
        return bool(content)


def outer_command(trunk_fd: int, listeners: Mapping[str, int]) -> list[str]:
    """The program that is the outer end: a connected trunk, and listening sockets by name."""
    words = [f"{name}={descriptor}" for name, descriptor in listeners.items()]
    return [sys.executable, "-c", "from lab.tunnel import main; main()", str(trunk_fd), *words]


def main() -> NoReturn:
    """The outer end; ends as the process at the inner end did."""
    tunnel = Tunnel(socket.socket(fileno=int(sys.argv[1])))
    for word in sys.argv[2:]:
        name, _, descriptor = word.partition("=")
        tunnel.listen(socket.socket(fileno=int(descriptor)), name)
    arrived, arrives = socket.socketpair()
    arrives.setblocking(False)
    signal.set_wakeup_fd(arrives.fileno())
    signal.signal(signal.SIGTERM, lambda _number, _frame: None)
    tunnel.watch(arrived, lambda: tunnel.send(SIGNAL, arrived.recv(1)[0]))
    tunnel.run()
    if tunnel.exit_status is None:
        print("lab: the host VM, or what was run in it for this one, has ended", file=sys.stderr)
        sys.exit(1)
    if tunnel.exit_status < 0:
        end_by_signal(-tunnel.exit_status)
    sys.exit(tunnel.exit_status)


def end_by_signal(number: int) -> None:
    """Ends this process by a signal, without a core of it."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):  # SIGKILL has no handler to be reset
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
