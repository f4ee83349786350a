# SPDX-License-Identifier: GPL-2.0-or-later
"""The tunnel to a host VM, both ends on this machine: the outer one as the program it is."""

from __future__ import annotations

import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.tunnel import CLOSE, DATA, EXIT, Tunnel, decode_frames, encode_frame, outer_command

ROOT = Path(__file__).parents[3]
# More than any buffer on the way holds.
MUCH = bytes(range(256)) * 8209
TIMEOUT_S = 20


def receive(connection: socket.socket, size: int) -> bytes:
    """So many bytes, fewer when the end comes before."""
    received = b""
    while len(received) < size and (chunk := connection.recv(65536)):
        received += chunk
    return received


class Ends:
    """An outer end, an inner end in a thread, and behind that a service called `echo`."""

    def __init__(self, folder: Path) -> None:
        self.signals: list[int] = []
        self.signalled = threading.Event()
        outer_trunk, inner_trunk = socket.socketpair()
        self._path = folder / "outer"
        self._service = self._listen(folder / "service")
        with self._listen(self._path) as listener, self._listen(folder / "none") as refused, outer_trunk:
            descriptors = {"echo": listener.fileno(), "no such": refused.fileno()}
            self.outer = subprocess.Popen(
                outer_command(outer_trunk.fileno(), descriptors),
                pass_fds=(outer_trunk.fileno(), *descriptors.values()),
                cwd=ROOT, stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
        self._ends, self._asked_to_end = socket.socketpair()
        self.inner = Tunnel(inner_trunk, connect=self._connect, on_signal=self._note_signal)
        self.inner.watch(self._asked_to_end, self.inner.stop)
        self._trunk = inner_trunk
        self._thread = threading.Thread(target=self.inner.run)
        self._thread.start()

    def connect(self, name: str = "outer") -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(TIMEOUT_S)
        connection.connect(str(self._path.with_name(name)))
        return connection

    def accept(self) -> socket.socket:
        connection, _ = self._service.accept()
        connection.settimeout(TIMEOUT_S)
        return connection

    def finish(self, status: int) -> int:
        """The process behind the inner end has ended; how the outer end did."""
        self._stop_inner()
        self.inner.finish(status)
        return self.outer.wait(TIMEOUT_S)

    def cut(self) -> tuple[int, str]:
        self._stop_inner()
        self._trunk.close()
        assert self.outer.stderr is not None
        return self.outer.wait(TIMEOUT_S), self.outer.stderr.read()

    def close(self) -> None:
        self.outer.kill()
        self._stop_inner()
        self.outer.communicate()
        for each in (self._service, self._ends, self._asked_to_end, self._trunk):
            each.close()

    def _stop_inner(self) -> None:
        self._ends.sendall(b"x")
        self._thread.join(TIMEOUT_S)
        assert not self._thread.is_alive()

    def _connect(self, name: str) -> socket.socket:
        if name != "echo":
            raise FileNotFoundError
        return self.connect("service")

    def _note_signal(self, number: int) -> None:
        self.signals.append(number)
        self.signalled.set()

    @staticmethod
    def _listen(path: Path) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen()
        listener.settimeout(TIMEOUT_S)
        return listener


@pytest.fixture
def ends(tmp_path: Path) -> Iterator[Ends]:
    both = Ends(tmp_path)
    yield both
    both.close()


def test_frames_are_whole_or_wait() -> None:
    frames = [(DATA, 7, b"content"), (CLOSE, 7, b""), (EXIT, -9, b"")]
    stream = b"".join(encode_frame(*frame) for frame in frames)
    buffer = bytearray()
    found: list[tuple[int, int, bytes]] = []
    for byte in stream:
        buffer.append(byte)
        found += decode_frames(buffer)
    assert found == frames
    assert not buffer


def test_several_connections_each_get_their_own(ends: Ends) -> None:
    pairs = [(ends.connect(), ends.accept()) for _ in range(3)]
    for number, (client, service) in enumerate(pairs):
        client.sendall(b"to %d" % number)
        service.sendall(b"from %d" % number)
    for number, (client, service) in enumerate(pairs):
        assert receive(service, 4) == b"to %d" % number
        assert receive(client, 6) == b"from %d" % number
        client.close()
        service.close()


def test_more_than_fits_at_once_in_both_directions(ends: Ends) -> None:
    with ends.connect() as client, ends.accept() as service:
        senders = [threading.Thread(target=each.sendall, args=(MUCH,)) for each in (client, service)]
        for sender in senders:
            sender.start()
        assert receive(client, len(MUCH)) == MUCH
        assert receive(service, len(MUCH)) == MUCH
        for sender in senders:
            sender.join()


def test_closing_goes_through_either_way(ends: Ends) -> None:
    with ends.connect() as client, ends.accept() as service:
        client.sendall(b"last words")
        client.close()
        assert receive(service, 100) == b"last words"
    with ends.connect() as client, ends.accept() as service:
        service.sendall(b"last words")
        service.close()
        assert receive(client, 100) == b"last words"


def test_what_is_not_there_is_a_connection_closed(ends: Ends) -> None:
    with ends.connect("none") as client:
        assert client.recv(1) == b""


@pytest.mark.parametrize("status", [0, 3, -signal.SIGTERM, -signal.SIGKILL])
def test_the_outer_end_ends_as_the_process_did(ends: Ends, status: int) -> None:
    assert ends.finish(status) == status


def test_last_words_arrive_before_the_end(ends: Ends) -> None:
    with ends.connect() as client, ends.accept() as service:
        service.sendall(b"last words")
        service.close()
        assert ends.finish(0) == 0
        assert receive(client, 100) == b"last words"


def test_sigterm_goes_through(ends: Ends) -> None:
    with ends.connect(), ends.accept():  # then it has set up everything
        ends.outer.send_signal(signal.SIGTERM)
        assert ends.signalled.wait(TIMEOUT_S)
    assert ends.signals == [signal.SIGTERM]
    assert ends.finish(-signal.SIGTERM) == -signal.SIGTERM


def test_a_cut_is_told_at_either_end(ends: Ends) -> None:
    status, message = ends.cut()
    assert (status, "has ended" in message) == (1, True)


def test_the_inner_end_returns_when_the_outer_one_is_gone() -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    with ours:
        tunnel = Tunnel(ours)
        tunnel.run()
    assert tunnel.is_cut
    assert tunnel.exit_status is None
