# SPDX-License-Identifier: GPL-2.0-or-later
"""The loop that shows views, on a real terminal of a process of its own, fed with numbered looks."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WAIT_S = 30
ENTER, LEAVE, SHOW_CURSOR = "\x1b[?1049h", "\x1b[?1049l", "\x1b[?25h"
RED = "\x1b[31m"

# Argument 1: how many looks until one fails, 0 for never. Argument 2: as --plain.
FEEDER = """
import itertools, sys
from balloontrace.commands.top import _open_display, _Views
from balloontrace.live.refresh_loop import Schedule, run_live

numbers, fails_at = itertools.count(), int(sys.argv[1])

class Source:
    fd = gone = None

def look():
    number = next(numbers)
    if fails_at and number >= fails_at:
        raise RuntimeError("no more looks")
    return number

def screen(number, columns, rows):
    return [f"look {number} at {columns}x{rows}", "lost 3 of 5", "stage of it"][:rows]

views = _Views(look, "header", lambda number: [f"line {number}"], screen)
with _open_display(views, plain=sys.argv[2] == "plain") as display:
    ending = run_live(Source(), display, Schedule(0.1))
print("ended:", ending, flush=True)
"""


class Terminal:
    """A terminal with the feeder at work on it."""

    def __init__(self, *, fails_at: int = 0, plain: bool = False, **settings: str) -> None:
        self.leader, self.follower = pty.openpty()
        self.resize(80, 24)
        self.before = termios.tcgetattr(self.follower)
        env = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", **settings}
        env = {name: value for name, value in env.items() if value or name not in ("NO_COLOR",)}
        self.process = subprocess.Popen(
            [sys.executable, "-c", FEEDER, str(fails_at), "plain" if plain else "screen"],
            stdin=self.follower, stdout=self.follower, stderr=self.follower, env=env, cwd=ROOT,
            start_new_session=True, preexec_fn=self._take_terminal,
        )  # fmt: skip
        self.output = ""

    def _take_terminal(self) -> None:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self.leader, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def read_until(self, is_done: Callable[[str], object]) -> str:
        """What it has written since the last call; waits until that is enough."""
        new, deadline_s = "", time.monotonic() + WAIT_S
        while not is_done(new):
            assert time.monotonic() < deadline_s, repr(new[-2000:])
            if select.select([self.leader], [], [], 0.1)[0]:
                new += os.read(self.leader, 65536).decode()
            elif self.process.poll() is not None:
                break
        self.output += new
        return new

    def type(self, keys: bytes) -> None:
        os.write(self.leader, keys)

    def state(self) -> str:
        """The state letter of the process: T when stopped."""
        return Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[0]

    def ended(self) -> str:
        """Everything it wrote; asserts that it left the terminal as it was."""
        self.read_until(lambda _: self.process.poll() is not None)
        while select.select([self.leader], [], [], 0.1)[0]:
            self.output += os.read(self.leader, 65536).decode()
        assert termios.tcgetattr(self.follower) == self.before
        assert self.output.count(ENTER) == self.output.count(LEAVE)
        if ENTER in self.output:
            assert self.output.rindex(LEAVE) > self.output.rindex(ENTER)
            assert self.output.rindex(SHOW_CURSOR) > self.output.rindex("\x1b[?25l")
        return self.output

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.leader)
        os.close(self.follower)


@pytest.fixture
def start() -> Iterator[Callable[..., Terminal]]:
    started: list[Terminal] = []

    def start_one(**options: object) -> Terminal:
        started.append(Terminal(**options))  # type: ignore[arg-type]
        return started[-1]

    yield start_one
    for terminal in started:
        terminal.close()


def looks(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"look (\d+) at", text)]


def has_size(columns: int, rows: int, text: str) -> bool:
    return f"at {columns}x{rows}" in text


def press(*keys: bytes) -> Callable[[Terminal], None]:
    return lambda terminal: terminal.type(b"".join(keys))


def send(number: int) -> Callable[[Terminal], None]:
    return lambda terminal: terminal.process.send_signal(number)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("end", "said"),
    [
        (press(b"q"), "quit"),
        (press(b"x", b"\r", b"Q"), "quit"),
        (press(b"\x03"), "interrupted"),
        (send(signal.SIGINT), "interrupted"),
        (send(signal.SIGTERM), "terminated"),
        (send(signal.SIGHUP), "terminated"),
    ],
    ids=["q", "other keys, Q", "ctrl-c", "SIGINT", "SIGTERM", "SIGHUP"],
)
def test_every_ending_gives_the_terminal_back(
    start: Callable[..., Terminal], end: Callable[[Terminal], None], said: str
) -> None:
    terminal = start()
    seen = terminal.read_until(lambda text: len(looks(text)) >= 3)
    assert ENTER in seen
    assert looks(seen) == list(range(len(looks(seen))))
    assert not termios.tcgetattr(terminal.follower)[3] & (termios.ICANON | termios.ECHO)
    end(terminal)
    output = terminal.ended()
    assert terminal.process.returncode == 0
    assert f"ended: {said}" in output.rpartition(LEAVE)[2]
    assert "Traceback" not in output


def test_an_exception_gives_the_terminal_back(start: Callable[..., Terminal]) -> None:
    terminal = start(fails_at=3)
    output = terminal.ended()
    assert terminal.process.returncode == 1
    assert "RuntimeError: no more looks" in output.rpartition(LEAVE)[2]
    assert looks(output) == [0, 1, 2]


def test_a_resize_is_drawn_at_once(start: Callable[..., Terminal]) -> None:
    terminal = start(COLUMNS="33", LINES="44")
    terminal.read_until(lambda text: "at 80x24" in text)
    for columns, rows in ((40, 10), (132, 50), (80, 24)):
        terminal.resize(columns, rows)
        terminal.read_until(partial(has_size, columns, rows))
    terminal.resize(4, 1)
    terminal.read_until(lambda text: re.search(r"look(?! )", text))
    terminal.type(b"q")
    assert "33x44" not in terminal.ended()


def test_stopped_and_continued(start: Callable[..., Terminal]) -> None:
    terminal = start()
    terminal.read_until(lambda text: len(looks(text)) >= 2)
    terminal.process.send_signal(signal.SIGTSTP)
    deadline_s = time.monotonic() + WAIT_S
    while terminal.state() != "T":
        terminal.read_until(lambda _: True)
        assert time.monotonic() < deadline_s
    terminal.read_until(lambda text: LEAVE in text)
    assert termios.tcgetattr(terminal.follower) == terminal.before
    terminal.process.send_signal(signal.SIGCONT)
    assert ENTER in terminal.read_until(lambda text: len(looks(text)) >= 2)
    terminal.type(b"q")
    assert terminal.ended().count(ENTER) == 2


def test_colour_where_it_is_wanted(start: Callable[..., Terminal]) -> None:
    for settings, coloured in (({"NO_COLOR": ""}, True), ({"NO_COLOR": "1"}, False)):
        terminal = start(**settings)
        terminal.read_until(lambda text: len(looks(text)) >= 2)
        terminal.type(b"q")
        assert (RED in terminal.ended()) is coloured


@pytest.mark.thorough
@pytest.mark.parametrize("settings", [{"plain": True}, {"TERM": "dumb"}])
def test_lines_where_nothing_can_be_drawn(
    start: Callable[..., Terminal], settings: dict[str, object]
) -> None:
    terminal = start(**settings)
    terminal.read_until(lambda text: "line 2" in text)
    terminal.type(b"\x03")
    output = terminal.ended()
    assert output.startswith("header\r\nline 0\r\nline 1\r\n")
    # The last one is of the interval that was cut short.
    numbers = [int(number) for number in re.findall(r"line (\d+)\r\n", output)]
    assert numbers == list(range(len(numbers)))
    assert len(numbers) >= 4
    assert "ended: interrupted" in output
    assert "\x1b" not in output


def test_lines_into_a_pipe_end_with_it() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", FEEDER, "0", "screen"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    assert [process.stdout.readline() for _ in range(3)] == ["header\n", "line 0\n", "line 1\n"]
    process.stdout.close()
    process.wait(WAIT_S)
    assert "BrokenPipeError" in process.stderr.read()
    process.stderr.close()
