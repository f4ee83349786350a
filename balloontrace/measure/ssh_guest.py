# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest reached by ssh: the recorder is started there, and its recording comes back over ssh's output.

All of it shares one connection where ssh is OpenSSH. Whatever happens to that, the guest sees an input end:
the recorder stops, and the shell that keeps what was copied removes it.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from balloontrace.errors import BalloontraceError, UsageError
from balloontrace.measure.guest import Guest, GuestGone, facts_source, parse_answer, parse_facts
from balloontrace.measure.recorder import ChildRecorder, ignore_interrupts
from balloontrace.untrusted import printable

_CONNECT_S = 15
_FACTS_S = 120.0
_COPY_S = 120.0
_LEAVE_S = 10.0
_NO_COMMAND = 127
_FAILED = 255  # ssh's own status, ssh(1)
_BUNDLE = "balloontrace.pyz"
# It lives as long as the connection. What it made goes with it, unless it is to be kept.
_KEEPER = """
umask 077
folder=$(mktemp -d "${TMPDIR:-/tmp}/balloontrace-XXXXXX") || exit 1
trap 'END' EXIT
trap 'exit 1' HUP INT TERM
echo "$folder"
cat >/dev/null
"""
_REMOVE = 'rm -rf "$folder"'
_LEAVE = 'rmdir "$folder" 2>/dev/null'


class SshGuest(Guest):
    """`open_ssh` makes one."""

    def __init__(self, destination: str, ssh: str, *, keep: bool) -> None:
        """Nothing is done yet. UsageError for an ssh that cannot be run."""
        self.name = printable(destination)
        self._destination = destination
        self._words = shlex.split(ssh)
        if not self._words or shutil.which(self._words[0]) is None:
            raise UsageError(f"cannot run {printable(ssh)}: no such program; --ssh names another")
        if destination.startswith("-"):
            raise UsageError(f"--guest {printable(destination)}: that is an option of ssh, not a guest")
        self._keep = keep
        self._own_folder = tempfile.mkdtemp(prefix="balloontrace-")
        self._keeper: subprocess.Popen[bytes] | None = None
        self._folder = ""  # in the guest
        self._bundle = ""

    def open(self, make_bundle: Callable[[], bytes]) -> None:
        """Connect, ask what the guest has, copy what it lacks. GuestGone, UsageError, BalloontraceError."""
        self._keeper = self._start_keeper()
        self.facts = parse_facts(self.ask("facts", timeout_s=_FACTS_S))
        if not self.facts.is_root and self._run("sudo -n true", None, _FACTS_S).returncode:
            raise UsageError(
                f"{self.name}: that user may not trace, and sudo there wants a password: connect as root"
            )
        if not self.facts.has_balloontrace:
            self._bundle = f"{self._folder}/{_BUNDLE}"
            done = self._run(f"cat > {shlex.quote(self._bundle)}", make_bundle(), _COPY_S)
            if done.returncode:
                raise BalloontraceError(f"cannot copy balloontrace to {self.name}: {_last_line(done.stderr)}")

    @property
    def kept(self) -> str | None:
        """As --keep wants it."""
        return self._bundle if self._keep and self._bundle else None

    def ask(self, *words: str, timeout_s: float) -> dict[str, Any]:
        """By its python3, which gets the program as one of its words."""
        program = shlex.join(["python3", "-c", facts_source(), *words])
        done = self._run(program, None, timeout_s)
        if done.returncode == _NO_COMMAND:
            raise BalloontraceError(f"{self.name} has no python3, which the recorder needs")
        if done.returncode:
            raise GuestGone(f"ssh to {self.name} failed: {_last_line(done.stderr)}")
        return parse_answer(done.stdout.decode(errors="replace"))

    def start_recorder(self, options: Sequence[str], path: Path) -> ChildRecorder:
        """It ends when ssh closes its input, or is gone."""
        program = ["python3", self._bundle] if self._bundle else ["balloontrace"]
        sudo = [] if self.facts.is_root else ["sudo", "-n"]
        words = [*sudo, *program, "record", "-o", "-", "--side", "guest", "--until-eof", *options]
        argv = [*self._ssh(), f"exec {shlex.join(words)}"]
        if self._is_lost():
            raise GuestGone(f"the connection to {self.name} is lost")
        whose = f"the recorder of {self.name} over ssh"
        return ChildRecorder(whose, argv, path, own_session=False, explain=self._explain)

    def close(self) -> None:
        """The keeper removes what was copied when its input ends."""
        if self._keeper is not None:
            _end(self._keeper)
        shutil.rmtree(self._own_folder, ignore_errors=True)

    def _is_lost(self) -> bool:
        return self._keeper is None or self._keeper.poll() is not None

    def _explain(self, status: int) -> str | None:
        """What is to be said of a recorder that ended because ssh did."""
        return "the connection is lost" if status < 0 or status == _FAILED or self._is_lost() else None

    def _ssh(self) -> list[str]:
        """The words before the command. Options of the user's come first, and so they count."""
        options: list[str] = []
        if Path(self._words[0]).name == "ssh":
            shared = ("ControlMaster=auto", f"ControlPath={self._own_folder}/%C", "ControlPersist=no")
            lively = (f"ConnectTimeout={_CONNECT_S}", "ServerAliveInterval=15", "ServerAliveCountMax=4")
            options = ["-T", *(word for option in (*shared, *lively) for word in ("-o", option))]
        return [*self._words, *options, self._destination]

    def _start_keeper(self) -> subprocess.Popen[bytes]:
        script = _KEEPER.replace("END", _LEAVE if self._keep else _REMOVE)
        keeper = subprocess.Popen(
            [*self._ssh(), f"exec sh -c {shlex.quote(script)}"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            preexec_fn=ignore_interrupts,
        )  # fmt: skip
        assert keeper.stdout is not None
        self._folder = keeper.stdout.readline().decode(errors="replace").strip()
        if not self._folder.startswith("/"):
            _, said = keeper.communicate()
            raise UsageError(f"cannot reach the guest {self.name} by ssh: {_last_line(said)}")
        return keeper

    def _run(self, command: str, given: bytes | None, timeout_s: float) -> subprocess.CompletedProcess[bytes]:
        stdin: dict[str, Any] = {"stdin": subprocess.DEVNULL} if given is None else {"input": given}
        try:
            return subprocess.run(
                [*self._ssh(), command], capture_output=True, timeout=timeout_s,
                preexec_fn=ignore_interrupts, **stdin,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise GuestGone(f"{self.name} does not answer within {timeout_s:.0f} s") from None


def open_ssh(destination: str, ssh: str, make_bundle: Callable[[], bytes], *, keep: bool) -> SshGuest:
    """A guest, connected, with all it needs. Errors as `SshGuest.open`; nothing is left after one."""
    guest = SshGuest(destination, ssh, keep=keep)
    try:
        guest.open(make_bundle)
    except BaseException:
        guest.close()
        raise
    return guest


def _end(keeper: subprocess.Popen[bytes]) -> None:
    streams: list[IO[bytes] | None] = [keeper.stdin, keeper.stdout, keeper.stderr]
    if keeper.stdin is not None:
        with suppress(OSError):
            keeper.stdin.close()
    try:
        keeper.wait(_LEAVE_S)
    except subprocess.TimeoutExpired:
        keeper.kill()
        keeper.wait()
    for stream in streams:
        if stream is not None:
            stream.close()


def _last_line(said: bytes) -> str:
    lines = [line for line in said.decode(errors="replace").splitlines() if line.strip()]
    return printable(lines[-1].strip()) if lines else "it does not say why"
