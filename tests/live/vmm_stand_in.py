# SPDX-License-Identifier: GPL-2.0-or-later
"""Stands for the API socket of Firecracker or cloud-hypervisor, and moves the balloon of the lab's QEMU.

It takes what their documents say that they take, and refuses the rest; the real programs were not tried.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingUnixStreamServer
from typing import Any

import lab

MIB_BYTES = 1 << 20


@contextmanager
def standing_in(path: Path, guest: lab.Guest, memory_mib: int) -> Iterator[list[str]]:
    """The requests it was sent, e.g. `PATCH /balloon`; until the block ends."""
    requests: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def address_string(self) -> str:
            return str(path)

        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            self._handle()

        def do_PATCH(self) -> None:
            self._handle()

        def do_PUT(self) -> None:
            self._handle()

        def _handle(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            requests.append(f"{self.command} {self.path}")
            try:
                told = self._answer(json.loads(body) if body else None)
            except (KeyError, TypeError, ValueError):
                self.send_error(400)
                return
            self.send_response(200 if told else 204)
            self.end_headers()
            self.wfile.write(told)

        def _answer(self, asked: Any) -> bytes:
            match requests[-1]:
                case "PATCH /balloon":
                    move(only(asked, "amount_mib") * MIB_BYTES)
                case "GET /balloon/statistics":
                    pages = balloon_bytes() // 4096
                    return json.dumps({"actual_pages": pages, "actual_mib": pages // 256}).encode()
                case "PUT /api/v1/vm.resize" if self.headers["Content-Type"] == "application/json":
                    move(only(asked, "desired_balloon"))
                case _:
                    raise ValueError
            return b""

    def balloon_bytes() -> int:
        return (memory_mib << 20) - guest.balloon_actual_bytes()

    def move(size_bytes: int) -> None:
        guest.set_balloon(target_bytes=(memory_mib << 20) - size_bytes)

    with ThreadingUnixStreamServer(str(path), Handler) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            yield requests
        finally:
            server.shutdown()
            serving.join()


def only(asked: dict[str, Any], name: str) -> int:
    """The one field there may be, a whole number."""
    ((found, value),) = asked.items()
    if found != name or not isinstance(value, int):
        raise ValueError
    return value
