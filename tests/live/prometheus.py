# SPDX-License-Identifier: GPL-2.0-or-later
"""A real Prometheus, Debian's own: its package is unpacked and not installed, so that no service begins."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import quote

from tracing import ROOT

import lab

FOLDER = ROOT / "build" / "prometheus"
_CONFIGURATION = """\
global:
  scrape_interval: 1s
scrape_configs:
  - job_name: balloontrace
    static_configs:
      - targets: ["127.0.0.1:9435"]
"""
_PORT = 9090
_READY = b"Server is ready"
_STARTS_S = 300


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

    def __init__(self, guest: lab.Guest) -> None:
        binaries = f"/repo/{unpack_prometheus().relative_to(ROOT)}"
        self._guest = guest
        script = f"mkdir -p /tmp/prometheus && cat > /tmp/prometheus/conf.yml <<'END'\n{_CONFIGURATION}END\n"
        guest.run(["sh", "-c", script], check=True)
        words = [f"{binaries}/prometheus", "--config.file=/tmp/prometheus/conf.yml"]
        words += ["--storage.tsdb.path=/tmp/prometheus/data", f"--web.listen-address=127.0.0.1:{_PORT}"]
        self._process = guest.start(words)
        self._process.wait_for(_READY, _STARTS_S)

    def query(self, expression: str) -> list[float]:
        """The values of an expression now, without their labels."""
        url = f"http://127.0.0.1:{_PORT}/api/v1/query?query={quote(expression)}"
        script = f"import urllib.request as u; print(u.urlopen({url!r}).read().decode())"
        said = self._guest.run(["python3", "-c", script], check=True, timeout_s=120).stdout
        return [float(each["value"][1]) for each in json.loads(said)["data"]["result"]]

    def end(self) -> None:
        """Leaves nothing in the guest."""
        self._guest.run(["kill", str(self._process.pid)], check=True)
        self._process.wait(60)
        self._guest.run(["rm", "-r", "/tmp/prometheus"], check=True)
