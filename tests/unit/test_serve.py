# SPDX-License-Identifier: GPL-2.0-or-later
"""What `serve` shows: read back with Prometheus's own parsers, over HTTP and from a file."""

from __future__ import annotations

import copy
import gzip
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partialmethod
from pathlib import Path
from socketserver import BaseServer
from typing import Any

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard
from live_looks import guest_look, host_look, moved
from prometheus_client import parser
from prometheus_client.openmetrics import parser as openmetrics
from signal_soon import signal_soon

from balloontrace.commands.serve import parse_listen
from balloontrace.errors import UsageError
from balloontrace.format.balloon_size import BalloonSize
from balloontrace.format.live_counters import LiveDevice
from balloontrace.format.vocabulary import Call
from balloontrace.live.read_all_sums import Tracing, VmLook
from balloontrace.serve.exposition import FILE_NAME, Exposition, HttpServer, write_textfile
from balloontrace.serve.families import Family, Kind, as_histogram
from balloontrace.serve.guest_metrics import guest_families
from balloontrace.serve.host_metrics import host_families, vm_labels
from balloontrace.serve.notify import ServiceManager
from balloontrace.serve.serve_loop import Duty, serve_until_end
from balloontrace.system.vmm import Process

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "prometheus"
UNIT = ROOT / "packages" / "balloontrace.service"
MIB = 1 << 20
LEAST_POINTS = 40  # of systemd-analyze, in tenths: at most so many
OPENMETRICS = "application/openmetrics-text; version=1.0.0"
Values = dict[tuple[str, frozenset[tuple[str, str]]], float]

GUEST = replace(guest_look(2.0, 100, moved(100, 110)), sizes={3: BalloonSize("virtio3", True, 25600, 28160)})


def vm(pid: int, name: str | None, calls: int, *, counts_freed: bool = False) -> VmLook:
    process = Process(pid, "qemu", "qemu", 7, 3, (), name, None)
    return VmLook(pid, process, host_look(2.0, calls), counts_freed)


HOST = (vm(11, "web1", 100, counts_freed=True), vm(12, "web1", 7), vm(13, None, 0))
TRACING = Tracing(program_ns=3_000_000, missed=4, without_room=2)


def values_of(families: Iterable[object]) -> Values:
    samples = [sample for family in families for sample in family.samples]  # type: ignore[attr-defined]
    return {(sample.name, frozenset(sample.labels.items())): sample.value for sample in samples}


def parsed(text: str) -> Iterable[object]:
    found: Iterable[object] = parser.text_string_to_metric_families(text)
    return found


def get(families: list[Family], accept: str) -> str:
    with HttpServer(Exposition(lambda: families), "127.0.0.1", 0) as server:
        request = urllib.request.Request(
            f"http://127.0.0.1:{server.port}/metrics", headers={"Accept": accept}
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert answer.headers["Content-Type"].startswith(accept.partition(";")[0])
            text: str = answer.read().decode()
            return text


def test_a_browsers_icon_is_no_scrape() -> None:
    with HttpServer(Exposition(lambda: pytest.fail("scraped")), "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.port}/favicon.ico"
        with urllib.request.urlopen(url, timeout=10) as answer:
            assert answer.read() == b""


def test_gzip_for_who_takes_it() -> None:
    exposition = Exposition(lambda: host_families(HOST, TRACING))
    with HttpServer(exposition, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.port}/metrics"
        request = urllib.request.Request(url, headers={"Accept-Encoding": "deflate, gzip;q=0.9"})
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert answer.headers["Content-Encoding"] == "gzip"
            values = values_of(parsed(gzip.decompress(answer.read()).decode()))
    assert one(values, "vms") == 3


def one(values: Values, name: str, **labels: str) -> float:
    return values[f"balloontrace_{name}", frozenset(labels.items())]


def test_a_guest_over_http() -> None:
    text = get(list(guest_families(GUEST)), OPENMETRICS)
    values = values_of(openmetrics.text_string_to_metric_families(text))  # type: ignore[no-untyped-call]
    assert one(values, "moved_bytes_total", queue="inflate") == 100 * MIB
    assert one(values, "moved_pages_total", queue="inflate") == 25600
    assert one(values, "moved_bytes_total", queue="deflate") == 0
    assert one(values, "stage_seconds_total", stage="a") == pytest.approx(0.06)
    assert one(values, "stage_seconds_total", stage="bcd") == pytest.approx(0.03)
    assert one(values, "stage_seconds_total", stage="other") == pytest.approx(0.011)
    assert one(values, "sends_total") == 100
    assert one(values, "actual_bytes", device="virtio3") == 100 * MIB
    assert one(values, "target_bytes", device="virtio3") == 110 * MIB
    assert one(values, "shortfall_bytes", device="virtio3") == 10 * MIB
    assert one(values, "send_seconds_count") == 100
    assert one(values, "send_seconds_bucket", le="+Inf") == 100
    # All of bucket 18 are below 2^19 ns.
    assert one(values, "send_seconds_bucket", le="0.000524288") == 100
    assert one(values, "send_seconds_bucket", le="0.000262144") == 0
    assert one(values, "process_resident_memory_bytes") > MIB
    assert one(values, "operations_under_way") == 1
    assert one(values, "events_lost_total") == 0


def test_how_operations_of_a_guest_ended() -> None:
    live = moved(100, 110, superseded=2, oom_pages=256, woken_ns=500_000_000, woken_sends=90)
    devices = list(live.devices)
    devices[4] = LiveDevice(0, 5, 28160, inflates=1, is_short=1)
    look = guest_look(2.0, 100, replace(live, devices=tuple(devices)), lost=1)
    states = (replace(look.counters.devices[0], operations=3), *look.counters.devices[1:])
    look = replace(look, counters=replace(look.counters, devices=states))
    values = values_of(parsed(get(list(guest_families(look, missed=5)), "text/plain")))
    assert one(values, "operations_total", outcome="reached") == 3
    assert one(values, "operations_total", outcome="superseded") == 2
    assert one(values, "operations_stalled") == 1
    assert one(values, "out_of_memory_bytes_total") == MIB
    assert one(values, "send_wakeup_seconds_total") == 0.5
    assert one(values, "send_wakeups_total") == 90
    assert one(values, "events_lost_total") == 1 + 5


def test_what_was_not_measured_is_not_there() -> None:
    text = get(list(guest_families(guest_look(1.0, None))), "text/plain")
    values = values_of(parsed(text))
    names = {name for name, _ in values}
    assert "balloontrace_moved_bytes_total" in names
    for absent in ("actual_bytes", "target_bytes", "shortfall_bytes", "program_seconds_total"):
        assert f"balloontrace_{absent}" not in names


def test_a_host_from_a_file(tmp_path: Path) -> None:
    exposition = Exposition(lambda: host_families(HOST, TRACING))
    write_textfile(exposition, tmp_path)
    write_textfile(exposition, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]
    values = values_of(parsed((tmp_path / FILE_NAME).read_text()))
    assert one(values, "vms") == 3
    assert one(values, "vms_not_traced_total") == 2
    # Two of one name are told apart by their processes.
    for name, calls in (("web1-11", 100), ("web1-12", 7)):
        assert one(values, "host_calls_total", vm=name, call="madvise_dontneed") == calls
        assert one(values, "host_call_duration_seconds_count", vm=name) == calls
    # Of web1-12 what calls free is not counted, which is not the same as nothing.
    freed = {labels for name, labels in values if name == "balloontrace_host_freed_bytes_total"}
    assert freed == {frozenset({("vm", "web1-11"), ("call", "madvise_dontneed")})}
    assert one(values, "host_calls_missed_total") == 4
    assert one(values, "host_program_seconds_total") == pytest.approx(0.003)
    assert one(values, "vm_info", vm="qemu-13", pid="13", uuid="", command="qemu") == 1
    assert not any(
        ("vm", "qemu-13") in labels for name, labels in values if name.endswith("host_calls_total")
    )


def test_no_two_vms_have_the_same_label() -> None:
    assert vm_labels(HOST) == ["web1-11", "web1-12", "qemu-13"]
    assert vm_labels((*HOST, vm(14, "web1-11", 0))) == ["web1-11", "web1-12", "qemu-13-13", "web1-11-14"]


def test_labels_are_bounded() -> None:
    """By VMs and what the program itself knows: nothing that a guest can make up."""
    families = [*guest_families(GUEST), *host_families(HOST, TRACING)]
    assert len({family.name for family in families}) == len(families)
    assert {label for family in families for label in family.labels} == {
        *("queue", "stage", "what", "outcome", "device", "vm", "call", "pid", "uuid", "command")
    }
    for family in families:
        assert len(family.samples) <= len(HOST) * len(Call), family.name
        assert re.fullmatch(r"balloontrace_[a-z_]+", family.name)
        assert not family.name.endswith(("_total", "_count", "_sum", "_bucket"))
        assert family.help.endswith(".")
        assert family.kind is not Kind.HISTOGRAM or family.name.endswith("_seconds")


def test_histograms_are_cumulative() -> None:
    found = as_histogram([1, 2, 3, 4], 5_000_000_000, [2, 3])
    assert found.buckets == (("4e-09", 3), ("8e-09", 6), ("+Inf", 10))
    assert found.sum_s == 5.0


def test_a_port_that_is_taken() -> None:
    exposition = Exposition(list)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            UsageError, match=f"cannot listen on 127.0.0.1 port {port}: Address already in use"
        ):
            HttpServer(exposition, "127.0.0.1", port)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("127.0.0.1:9435", ("127.0.0.1", 9435)),
        (":1", ("127.0.0.1", 1)),
        ("[::1]:9435", ("::1", 9435)),
        ("0.0.0.0:65535", ("0.0.0.0", 65535)),
    ],
)
def test_where_to_listen(text: str, found: tuple[str, int]) -> None:
    assert parse_listen(text) == found


@pytest.mark.parametrize("text", ["", "9435", "host:", "host:x", "host:65536", "host:-1"])
def test_nowhere_to_listen(text: str) -> None:
    with pytest.raises(UsageError, match="--listen takes an address and a port"):
        parse_listen(text)


@dataclass
class FakeSource:
    gone: str | None = None
    fd: int | None = None


def test_systemd_is_told(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        told = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "20000"}
        source, times = FakeSource(), []

        def work() -> None:
            times.append(1)
            if len(times) == 3:
                source.gone = "all done"

        ending = serve_until_end(source, ServiceManager(told), [Duty(0.02, work)])
        manager.setblocking(False)
        words: list[bytes] = []
        while not words or words[-1] != b"STOPPING=1":
            words.append(manager.recv(100))
    assert ending == "all done"
    assert words[0] == b"READY=1"
    assert words.count(b"WATCHDOG=1") >= 2


@pytest.mark.parametrize(
    "environment", [{}, {"WATCHDOG_USEC": "5", "WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "x"}]
)
def test_nobody_watches(environment: dict[str, str]) -> None:
    manager = ServiceManager(environment)
    assert manager.watchdog_s is None
    manager.tell("READY=1")


@pytest.fixture(autouse=True, scope="module")
def _servers_end_soon() -> Iterator[None]:
    """The library looks each half second whether it should."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(
            "socketserver.BaseServer.serve_forever", partialmethod(BaseServer.serve_forever, 0.01)
        )
        yield


def test_a_signal_ends_it() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    try:
        sender = signal_soon(signal.SIGTERM)
        assert serve_until_end(FakeSource(), ServiceManager({}), []) == "terminated"
        sender.join()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


DROP = """
from balloontrace.serve.privileges import OF_HOST, drop_privileges
drop_privileges(OF_HOST, keeps_user=False)
print(open("/proc/self/status").read())
open("/proc/self/fdinfo/0").read()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="has privileges to drop as root only")
def test_no_privilege_is_kept() -> None:
    done = subprocess.run([sys.executable, "-c", DROP], capture_output=True, text=True, check=True, cwd=ROOT)
    status = dict(line.split(":\t", 1) for line in done.stdout.splitlines() if ":\t" in line)
    allowed = 1 << 2 | 1 << 19
    for name in ("CapEff", "CapPrm", "CapInh", "CapAmb"):
        assert int(status[name], 16) & ~allowed == 0, name
    assert status["NoNewPrivs"] == "1"
    assert set(status["Uid"].split()) == {"65534"}


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd")
def test_the_unit_is_hardened() -> None:
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", f"--threshold={LEAST_POINTS}", "--no-pager", UNIT],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    print(done.stdout[-300:])
    assert done.returncode == 0, done.stdout + done.stderr


def metrics_in(text: str) -> set[str]:
    return {
        re.sub("_(total|bucket|count|sum)$", "", name) for name in re.findall(r"balloontrace_[a-z_]+", text)
    }


@pytest.mark.parametrize("name", ["balloontrace.rules.yml", "balloontrace.rules.test.yml", "dashboard.json"])
def test_examples_ask_for_what_there_is(name: str) -> None:
    text = (EXAMPLES / name).read_text()
    known = {family.name for family in (*guest_families(GUEST), *host_families(HOST, TRACING))}
    known |= {"balloontrace_process_cpu_seconds"}
    assert metrics_in(text)
    assert metrics_in(text) <= known


def test_the_dashboard_is_whole() -> None:
    found = json.loads((EXAMPLES / "dashboard.json").read_text())
    assert len({panel["id"] for panel in found["panels"]}) == len(found["panels"])
    for panel in found["panels"]:
        assert panel["title"]
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24


def as_grafana_reads(dashboard: dict[str, Any]) -> Any:
    """By the types that Grafana makes of its own schema: what it does not know is not there any more."""
    register_default_plugins()
    read = JSONEncoder(sort_keys=True).encode(Dashboard.from_json(copy.deepcopy(dashboard)))
    return json.loads(read)


def is_part_of(small: Any, large: Any) -> bool:
    """Whether everything in `small` is in `large`, which may have more of what has a default."""
    if isinstance(small, dict):
        return isinstance(large, dict) and all(
            is_part_of(each, large.get(key)) for key, each in small.items()
        )
    if isinstance(small, list):
        return len(small) == len(large) and all(map(is_part_of, small, large))
    return bool(small == large)


def test_grafana_knows_all_that_the_dashboard_says() -> None:
    found = json.loads((EXAMPLES / "dashboard.json").read_text())
    assert is_part_of(found, as_grafana_reads(found))
    odd = copy.deepcopy(found)
    odd["panels"][0]["titel"] = odd["panels"][0].pop("title")
    assert not is_part_of(odd, as_grafana_reads(odd))
