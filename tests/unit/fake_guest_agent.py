# SPDX-License-Identifier: GPL-2.0-or-later
"""A qemu-guest-agent whose guest is this machine: it runs what it is told, and reads and writes files."""

from __future__ import annotations

import base64
import json
import socket
import subprocess
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO


class FakeAgent:
    """At `path`, for one connection at a time. `refused` are the commands that it has been forbidden.

    To those in `odd` it answers that instead.
    """

    def __init__(
        self, path: Path, refused: tuple[str, ...] = (), odd: Mapping[str, str] | None = None
    ) -> None:
        self._refused, self._odd = refused, odd or {}
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._files: dict[int, BinaryIO] = {}
        self._connection: socket.socket | None = None
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        """As a guest that is powered off."""
        self._listener.close()
        if self._connection is not None:
            with suppress(OSError):  # the other end may have closed it
                self._connection.shutdown(socket.SHUT_RDWR)

    def _serve(self) -> None:
        self._connection, _ = self._listener.accept()
        with self._connection as connection:
            connection.sendall(b'{"return": "of another connection"}\n')
            for line in connection.makefile("rb"):
                request = json.loads(line.lstrip(b"\xff"))
                try:
                    answer = {"return": self._answer(request["execute"], request.get("arguments", {}))}
                except (OSError, PermissionError) as error:
                    answer = {"error": {"class": "GenericError", "desc": str(error)}}
                mark = b"\xff" if "sync" in request["execute"] else b""
                said = self._odd.get(request["execute"], json.dumps(answer))
                connection.sendall(mark + said.encode() + b"\n")

    def _answer(self, command: str, told: dict[str, Any]) -> Any:
        if command in self._refused:
            raise PermissionError(f"Command {command} has been disabled")
        match command:
            case "guest-sync-delimited":
                return told["id"]
            case "guest-exec":
                process = subprocess.Popen(
                    [told["path"], *told["arg"]], stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                )  # fmt: skip
                self._processes[process.pid] = process
                return {"pid": process.pid}
            case "guest-exec-status":
                process = self._processes[told["pid"]]
                if process.poll() is None:
                    return {"exited": False}
                out, err = (base64.b64encode(data).decode() for data in process.communicate())
                how = (
                    {"exitcode": process.returncode}
                    if process.returncode >= 0
                    else {"signal": -process.returncode}
                )
                return {"exited": True, **how, "out-data": out, "err-data": err}
            case "guest-file-open":
                file = Path(told["path"]).open(told["mode"] + "b")  # noqa: SIM115
                self._files[file.fileno()] = file
                return file.fileno()
            case "guest-file-write":
                return {"count": self._files[told["handle"]].write(base64.b64decode(told["buf-b64"]))}
            case "guest-file-read":
                data = self._files[told["handle"]].read(told["count"])
                return {"count": len(data), "buf-b64": base64.b64encode(data).decode(), "eof": not data}
            case "guest-file-close":
                self._files.pop(told["handle"]).close()
        return {}
