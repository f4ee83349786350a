# SPDX-License-Identifier: GPL-2.0-or-later
"""A real Prometheus, Debian's own: its package is unpacked and not installed, so that no service begins."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlencode

from lab.guest import Guest

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "build" / "prometheus"
TARGET = "127.0.0.1:9435"
_PORT = 9090
_IN_GUEST = "/tmp/prometheus"  # noqa: S108
_READY = b"Server is ready"
_STARTS_S, _ANSWERS_S = 300, 120


def unpack_prometheus() -> Path:
    """The folder with `prometheus` and `promtool`, for this machine. Raises CalledProcessError."""
    if not (FOLDER / "promtool").exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory() as folder:
            if _fetch(folder, check=False).returncode:
                subprocess.run(["apt-get", "update", "-qq"], check=True)
                _fetch(folder, check=True)
            (package,) = Path(folder).glob("prometheus_*.deb")
            subprocess.run(["dpkg-deb", "-x", package, folder], check=True)
            for name in ("prometheus", "promtool"):
                shutil.move(Path(folder) / "usr" / "bin" / name, FOLDER / name)
    return FOLDER


def _fetch(folder: str, *, check: bool) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["apt-get", "download", "prometheus"], cwd=folder, check=check)


class Prometheus:
    """One that scrapes `serve` in a guest, each second."""

    def __init__(self, guest: Guest, targets: Sequence[str] = (TARGET,)) -> None:
        binaries = f"/repo/{unpack_prometheus().relative_to(ROOT)}"
        self._guest = guest
        jobs = [{"job_name": "balloontrace", "static_configs": [{"targets": list(targets)}]}]
        configuration = {"global": {"scrape_interval": "1s"}, "scrape_configs": jobs}
        script = (
            f"mkdir -p {_IN_GUEST} && cat > {_IN_GUEST}/conf.yml <<'END'\n{json.dumps(configuration)}\nEND\n"
        )
        guest.run(["sh", "-c", script], check=True)
        words = [f"{binaries}/prometheus", f"--config.file={_IN_GUEST}/conf.yml"]
        words += [f"--storage.tsdb.path={_IN_GUEST}/data", f"--web.listen-address=127.0.0.1:{_PORT}"]
        self._process = guest.start(words)
        self._process.wait_for(_READY, _STARTS_S)

    def query_last(self, metric: str) -> list[float]:
        """What was scraped last, without labels. On a busy machine scrapes fail: they have a second each."""
        return self.query(f"last_over_time({metric}[1h])")

    def query(self, expression: str) -> list[float]:
        """The values of an expression now, without their labels."""
        return [float(each["value"][1]) for each in self._ask("query", {"query": expression})]

    def query_range(self, expression: str, start_s: float, end_s: float, step_s: float) -> list[Any]:
        """Its values over a time, by the guest's clock: a `metric` with its labels and `values` each."""
        asked = {"query": expression, "start": start_s, "end": end_s, "step": step_s}
        return self._ask("query_range", {name: str(value) for name, value in asked.items()})

    def _ask(self, what: str, asked: Mapping[str, str]) -> list[Any]:
        url = f"http://127.0.0.1:{_PORT}/api/v1/{what}?{urlencode(asked)}"
        script = f"import urllib.request as u; print(u.urlopen({url!r}).read().decode())"
        said = self._guest.run(["python3", "-c", script], check=True, timeout_s=_ANSWERS_S).stdout
        found: list[Any] = json.loads(said)["data"]["result"]
        return found

    def end(self) -> None:
        """Leaves nothing in the guest."""
        self._guest.run(["kill", str(self._process.pid)], check=True)
        self._process.wait(60)
        self._guest.run(["rm", "-r", _IN_GUEST], check=True)
