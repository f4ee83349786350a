# SPDX-License-Identifier: GPL-2.0-or-later
"""`python -m lab.dashboard_picture` makes docs/pictures/serve.png: the dashboard of examples/, on real data.

A guest serves its own balloon's metrics and those of some processes that serve as VMMs do. A real Prometheus
scrapes both, and answers what the dashboard asks. The panels are drawn here, for Grafana is not in Debian.
"""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

import lab
from lab.metrics_client import ENVIRONMENT, install_client
from lab.prometheus import TARGET, Prometheus
from lab.script import run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "pictures" / "serve.png"
DASHBOARD = ROOT / "examples" / "prometheus" / "dashboard.json"
VMS_SOURCE = ROOT / "bench" / "host_vms.c"
PANELS = (1, 2, 3, 4, 7, 8)
GUEST_MIB, TARGETS_MIB = 4096, (2500, 3300, 1900, 4096, 2900, 3600, 2300, 4096)
OF_HOST = "127.0.0.1:9436"
START_S, STEP_S, ROUNDS = 300, 2, 4
RANGE = "15s"
_COLOURS, _MOST_SERIES = 128, 6
_UNITS = {"bytes": "B", "Bps": "B/s", "s": "s", "percentunit": ""}


def main() -> int:
    """Boot, run, ask and draw."""
    panels = [each for each in json.loads(DASHBOARD.read_text())["panels"] if each["id"] in PANELS]
    with lab.solo(memory_mib=GUEST_MIB, cpus=2) as guest:
        install_client(guest)
        answers = _run(guest, panels)
    PICTURE.write_bytes(_draw(panels, answers))
    print(f"dashboard: {PICTURE.relative_to(ROOT)}", file=sys.stderr)
    return 0


def _run(guest: lab.Guest, panels: list[Any]) -> list[list[Any]]:
    """What Prometheus answers for each target of each panel, after some minutes of work."""
    vms = _Vms(guest)
    for side, listen in (("guest", TARGET), ("host", OF_HOST)):
        words = ["python3", "-P", "-m", "balloontrace", "serve", "--side", side, "--listen", listen]
        guest.start(words, env=ENVIRONMENT).wait_for(b"/metrics", START_S)
    prometheus = Prometheus(guest, (TARGET, OF_HOST))
    start_s = _clock_s(guest)
    for place, target_mib in enumerate(TARGETS_MIB):
        guest.set_balloon(target_mib=target_mib)
        vms.order(f"serve {ROUNDS * (1 + place % 3)}")
        guest.wait_balloon()
        vms.order("churn 1 4000")
        guest.run(["sleep", "6"], check=True)
    end_s = _clock_s(guest)
    return [
        [
            {**series, "legend": _legend(target["legendFormat"], series["metric"])}
            for target in panel["targets"]
            for series in prometheus.query_range(_asked(target["expr"]), start_s, end_s, STEP_S)
        ]
        for panel in panels
    ]


class _Vms:
    """Processes that serve as VMMs do: bench/host_vms.c obeys orders."""

    def __init__(self, guest: lab.Guest) -> None:
        source = guest.push(VMS_SOURCE)
        guest.run(["gcc", "-O2", "-o", "/run/vms", source], timeout_s=START_S, check=True)
        guest.run(["sh", "-c", "[ -e /dev/kvm ] || : > /dev/kvm; mkfifo /run/orders"], check=True)
        self._guest, self._read_bytes = guest, 0
        self._process = guest.start(["sh", "-c", "exec /run/vms <> /run/orders"])
        self.order("start 4 1")

    def order(self, line: str) -> None:
        """Have it done."""
        self._guest.run(["sh", "-c", f"echo {line} > /run/orders"], check=True)
        start = self._read_bytes
        self._read_bytes = self._process.wait_for(b"\n", START_S, stream="stdout", after=start)


def _clock_s(guest: lab.Guest) -> float:
    return float(guest.run(["date", "+%s"], check=True).stdout)


def _asked(expression: str) -> str:
    """As Grafana asks with all instances chosen."""
    return expression.replace("$__rate_interval", RANGE).replace("$instance", ".*")


def _legend(form: str, labels: Mapping[str, str]) -> str:
    """As Grafana fills it in; the instance says here which of both it was."""
    sides = {TARGET: "guest", OF_HOST: "host"}
    known = {**labels, "instance": sides.get(labels.get("instance", ""), "")}
    return re.sub(r"{{(\w+)}}", lambda found: known.get(found[1], ""), form).strip()


def _draw(panels: list[Any], answers: list[list[Any]]) -> bytes:
    """A PNG of all panels, in few colours."""
    import matplotlib as mpl  # only here: it takes a second to load
    from matplotlib.figure import Figure

    with mpl.rc_context({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False}):
        rows = -(-len(panels) // 2)
        figure = Figure(figsize=(10, 2.3 * rows), dpi=100, layout="constrained")
        places = figure.subplots(rows, 2).flatten()
        for axes, panel, found in zip(places, panels, answers, strict=True):
            _draw_panel(axes, panel, found)
        raw = io.BytesIO()
        figure.savefig(raw, format="png")
    with Image.open(raw) as image:
        small = io.BytesIO()
        image.convert("RGB").quantize(_COLOURS, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    return small.getvalue()


def _draw_panel(axes: Axes, panel: Mapping[str, Any], found: list[Any]) -> None:
    from matplotlib.ticker import EngFormatter

    found = sorted(found, key=lambda each: -max(float(value) for _, value in each["values"]))[:_MOST_SERIES]
    start_s = min((float(each["values"][0][0]) for each in found), default=0.0)
    for each in found:
        times_s, values = zip(
            *((float(at) - start_s, float(value)) for at, value in each["values"]), strict=True
        )
        axes.plot(times_s, values, linewidth=1.2, label=each["legend"])
    unit = panel["fieldConfig"]["defaults"].get("unit", "")
    axes.set_title(panel["title"], loc="left", fontsize=9, fontweight="bold")
    axes.yaxis.set_major_formatter(EngFormatter(_UNITS.get(unit, "")))
    axes.xaxis.set_major_formatter(EngFormatter("s"))
    axes.grid(alpha=0.3)
    if found:
        axes.legend(fontsize=7, frameon=False, ncols=3, loc="upper left")
        axes.set_ylim(bottom=0, top=axes.get_ylim()[1] * 1.35)


if __name__ == "__main__":
    run(main, __doc__)
