# SPDX-License-Identifier: GPL-2.0-or-later
"""QMP and the agent's protocol, against a peer in a thread."""

from __future__ import annotations

import json
import signal
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from lab.agent import AgentClient, AgentGone, decode_messages, describe_status, encode_message
from lab.errors import LabError
from lab.qmp import QmpClient, QmpError, QmpGone

PEER = "peer"
GREETING = b'{"QMP": {"version": {}, "capabilities": []}}\r\n'


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    yield ours, theirs
    ours.close()
    for thread in threading.enumerate():
        if thread.name == PEER:  # it goes when it has read the end
            thread.join(30)
    theirs.close()


def answer_qmp(peer: socket.socket, answer: Callable[[dict[str, object]], bytes]) -> list[dict[str, object]]:
    """A QEMU in a thread; returns the list its requests will be in."""
    requests: list[dict[str, object]] = []

    def serve() -> None:
        peer.sendall(GREETING)
        for line in peer.makefile("rb"):
            request = json.loads(line)
            requests.append(request)
            if request["execute"] == "qmp_capabilities":
                peer.sendall(json.dumps({"return": {}, "id": request["id"]}).encode() + b"\r\n")
            else:
                peer.sendall(answer(request))

    threading.Thread(target=serve, name=PEER, daemon=True).start()
    return requests


def test_qmp_answer_among_events(pair: tuple[socket.socket, socket.socket]) -> None:
    event = b'{"event": "BALLOON_CHANGE", "data": {"actual": 5}}\r\n'

    def answer(request: dict[str, object]) -> bytes:
        return event + json.dumps({"return": {"actual": 7}, "id": request["id"]}).encode() + b"\r\n" + event

    requests = answer_qmp(pair[1], answer)
    client = QmpClient(pair[0])
    assert client.execute("query-balloon") == {"actual": 7}
    assert client.execute("some-command", of_type="x") == {"actual": 7}
    assert requests[-1]["arguments"] == {"of-type": "x"}
    assert len(client.events) >= 3


def test_qmp_refusal_carries_what_qemu_says(pair: tuple[socket.socket, socket.socket]) -> None:
    error = {"class": "GenericError", "desc": "No balloon device"}
    answer_qmp(pair[1], lambda request: json.dumps({"error": error, "id": request["id"]}).encode() + b"\r\n")
    with pytest.raises(QmpError, match="No balloon device") as refused:
        QmpClient(pair[0]).execute("balloon", value=1)
    assert refused.value.error_class == "GenericError"


def test_qmp_end_and_silence_are_not_waited_out(pair: tuple[socket.socket, socket.socket]) -> None:
    answer_qmp(pair[1], lambda _: b"")
    client = QmpClient(pair[0], timeout_s=0.5)
    with pytest.raises(QmpGone, match="does not answer"):
        client.execute("stop")
    pair[1].shutdown(socket.SHUT_RDWR)
    with pytest.raises(QmpGone, match=r"closed|cannot reach"):
        client.execute("stop")


def test_agent_messages_survive_any_cut() -> None:
    stream = (
        encode_message(["ready"]) + encode_message(["started", "id", "7"]) + encode_message(["a", "", "é\n"])
    )
    for cut in range(len(stream) + 1):
        buffer = bytearray(stream[:cut])
        messages = decode_messages(buffer)
        buffer += stream[cut:]
        messages += decode_messages(buffer)
        assert messages == [["ready"], ["started", "id", "7"], ["a", "", "é\n"]]
        assert not buffer


@pytest.mark.parametrize("fields", [["a\0b"], ["x" * 70000], ["x"] * 2000])
def test_agent_messages_that_cannot_be_sent_are_refused(fields: list[str]) -> None:
    with pytest.raises(LabError):
        encode_message(fields)


def serve_agent(peer: socket.socket, answers: dict[str, list[list[str]]]) -> None:
    """An agent in a thread: for each verb, the answers it gives; `ID` stands for the request's id."""

    def serve() -> None:
        buffer = bytearray()
        while received := peer.recv(65536):
            buffer += received
            for message in decode_messages(buffer):
                for answer in answers.get(message[0], []):
                    peer.sendall(encode_message([message[1] if word == "ID" else word for word in answer]))
        peer.close()

    threading.Thread(target=serve, name=PEER, daemon=True).start()


def start(client: AgentClient, command_id: str) -> int:
    streams = ("/dev/null",) * 3
    return client.start(command_id, ["true"], cwd="/", streams=streams, environment={}, timeout_s=5)


def test_agent_command_from_start_to_end(pair: tuple[socket.socket, socket.socket]) -> None:
    ends = [["started", "ID", "42"], ["exited", "another", "code", "1"], ["exited", "ID", "signal", "9"]]
    serve_agent(pair[1], {"hello": [["ready"]], "start": ends})
    client = AgentClient(pair[0])
    assert client.hello(5)
    assert start(client, "one") == 42
    assert client.wait_exited("one", 5) == -signal.SIGKILL
    assert client.wait_exited("never started", 0.01) is None
    client.close()


def test_agent_refusal_says_why(pair: tuple[socket.socket, socket.socket]) -> None:
    serve_agent(pair[1], {"start": [["refused", "ID", "Cannot allocate memory"]]})
    client = AgentClient(pair[0])
    with pytest.raises(LabError, match="Cannot allocate memory"):
        start(client, "one")
    client.close()


def test_agent_that_goes_away_ends_every_wait(pair: tuple[socket.socket, socket.socket]) -> None:
    serve_agent(pair[1], {"start": [["started", "ID", "1"]]})
    client = AgentClient(pair[0])
    start(client, "one")
    threading.Timer(0.05, lambda: pair[1].shutdown(socket.SHUT_RDWR)).start()
    with pytest.raises(AgentGone):
        client.wait_exited("one", 60)
    with pytest.raises(AgentGone):
        client.pause(60)
    client.close()


def test_agent_that_is_silent_is_not_ready(pair: tuple[socket.socket, socket.socket]) -> None:
    client = AgentClient(pair[0])
    assert not client.hello(0.05)
    client.close()


@pytest.mark.parametrize(("status", "text"), [(3, "status 3"), (-9, "signal SIGKILL"), (-60, "signal 60")])
def test_statuses_in_words(status: int, text: str) -> None:
    assert describe_status(status) == text
