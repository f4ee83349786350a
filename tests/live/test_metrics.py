# SPDX-License-Identifier: GPL-2.0-or-later
"""`balloontrace serve` in a guest: the numbers of a recording made then, and no privilege kept."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hostserve import WARM_UP, Server
from prometheus_client.openmetrics import parser
from tracing import ATTACH_S, FULL_MIB, ROOT, balloontrace, move, record, report, shell

import lab
from lab.archive_libraries import unpack_archive_libraries
from lab.metrics_client import ENVIRONMENT, install_client, remove_client
from lab.prometheus import Prometheus, unpack_prometheus

SERVING = b"/metrics"
ARCHIVED_S = 300
NOBODY = 65534
MIB_PAGES = 256
PAGE_BYTES = 4096
SCRAPED_S = 300
Values = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture(scope="module")
def libraries(guest: lab.Guest) -> Iterator[None]:
    install_client(guest)
    yield
    remove_client(guest)


@pytest.fixture
def kvm(guest: lab.Guest) -> Iterator[None]:
    guest.run(shell("[ -e /dev/kvm ] || { : > /dev/kvm; : > /tmp/made-kvm; }"), check=True)
    yield
    guest.run(shell("[ ! -e /tmp/made-kvm ] || rm /dev/kvm /tmp/made-kvm"), check=True)


def start(guest: lab.Guest, side: str, *options: str) -> lab.GuestProcess:
    words = ["python3", "-P", "-m", "balloontrace", "serve", "--side", side, *options]
    process = guest.start(words, env=ENVIRONMENT)
    process.wait_for(SERVING, ATTACH_S)
    return process


def read_metrics(guest: lab.Guest, accept: str) -> str:
    script = (
        "import urllib.request as u; r = u.Request('http://127.0.0.1:9435/metrics', "
        f"headers={{'Accept': {accept!r}}}); print(u.urlopen(r).read().decode(), end='')"
    )
    return guest.run(["python3", "-c", script], check=True, timeout_s=120).stdout


def check_by_promtool(guest: lab.Guest) -> None:
    """Names, types and units are as Prometheus wants them."""
    promtool = unpack_prometheus() / "promtool"
    text = read_metrics(guest, "text/plain")
    subprocess.run([promtool, "check", "metrics"], input=text, text=True, check=True, timeout=60)


def scrape(guest: lab.Guest) -> Values:
    text = read_metrics(guest, "application/openmetrics-text")
    families = parser.text_string_to_metric_families(text)  # type: ignore[no-untyped-call]
    samples = [sample for family in families for sample in family.samples]
    return {(sample.name, frozenset(sample.labels.items())): sample.value for sample in samples}


def scrape_until(guest: lab.Guest, is_there: Callable[[Values], bool], what: str) -> Values:
    """The first scrape that shows it."""
    seen: list[Values] = []

    def has_come() -> bool:
        seen.append(scrape(guest))
        return is_there(seen[-1])

    guest.wait_until(has_come, SCRAPED_S, what=what)
    return seen[-1]


def one(values: Values, name: str, **labels: str) -> float:
    return values[f"balloontrace_{name}", frozenset(labels.items())]


def test_promtool_takes_the_rules_and_what_they_ask_for() -> None:
    """On this machine: the rules, and their own tests."""
    promtool, rules = unpack_prometheus() / "promtool", ROOT / "examples" / "prometheus"
    for words in (
        ["check", "rules", "balloontrace.rules.yml"],
        ["test", "rules", "balloontrace.rules.test.yml"],
    ):
        subprocess.run([promtool, *words], cwd=rules, check=True, timeout=60)


def test_promtool_takes_what_the_dashboard_asks(tmp_path: Path) -> None:
    """Each of its expressions as a rule, with Grafana's variable for a range as it would put it there."""
    panels = json.loads((ROOT / "examples/prometheus/dashboard.json").read_text())["panels"]
    expressions = [target["expr"] for panel in panels for target in panel["targets"]]
    rules = [
        {"record": f"asked:{place}", "expr": expression.replace("$__rate_interval", "5m")}
        for place, expression in enumerate(expressions)
    ]
    path = tmp_path / "dashboard.rules.yml"
    path.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))  # which is YAML too
    words = [str(unpack_prometheus() / "promtool"), "check", "rules", str(path)]
    done = subprocess.run(words, check=True, timeout=60, capture_output=True, text=True)
    assert f"{len(rules)} rules found" in done.stdout


def all_of(values: Values, name: str) -> list[float]:
    """Its values, whatever the labels."""
    return [value for (each, _), value in values.items() if each == f"balloontrace_{name}"]


def status_of(guest: lab.Guest, pid: int) -> dict[str, str]:
    lines = guest.run(["cat", f"/proc/{pid}/status"], check=True).stdout.splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


@pytest.mark.usefixtures("libraries")
def test_a_guest_is_served_as_it_is_recorded(guest: lab.Guest, tmp_path: Path) -> None:
    serving = start(guest, "guest")
    prometheus = Prometheus(guest)
    recorder = record(guest, "/root/served.bt")
    guest.set_balloon(target_mib=FULL_MIB - 509)
    guest.wait_balloon()
    values = scrape_until(guest, lambda seen: not one(seen, "work_item_under_way_seconds"), "an end of work")
    check_by_promtool(guest)
    recorder.end()
    found = report(recorder.pull(tmp_path))
    (inflate,) = found["operations"]
    moved = 'balloontrace_moved_pages_total{queue="inflate"}'
    guest.wait_until(
        lambda: prometheus.query_last(moved) == [inflate["pages"]], SCRAPED_S, what="all pages, scraped"
    )
    assert prometheus.query_last("balloontrace_sends_total") == [inflate["sends"]]
    assert prometheus.query("max_over_time(up[1h])") == [1]
    prometheus.end()
    status = status_of(guest, serving.pid)
    serving.signal(signal.SIGTERM)
    assert serving.wait(60).status == 0
    assert one(values, "moved_pages_total", queue="inflate") == inflate["pages"] == 509 * MIB_PAGES
    assert all_of(values, "actual_bytes") == all_of(values, "target_bytes") == [509 << 20]
    assert all_of(values, "shortfall_bytes") == [0]
    assert one(values, "sends_total") == one(values, "send_seconds_count")
    assert one(values, "events_lost_total") == 0
    assert one(values, "operations_total", outcome=inflate["outcome"]) == 1
    for nothing in ("operations_under_way", "operations_stalled", "out_of_memory_bytes_total"):
        assert one(values, nothing) == 0
    # Each send was answered by an interrupt, and takes until it runs again.
    assert 0 < one(values, "send_wakeups_total") <= inflate["sends"]
    assert 0 < one(values, "send_wakeup_seconds_total") < one(values, "send_seconds_sum")
    assert one(values, "program_seconds_total") > 0
    stages = sum(value for (name, _), value in values.items() if name.endswith("stage_seconds_total"))
    assert stages > 0
    for name in ("CapEff", "CapPrm", "CapBnd"):
        assert int(status[name], 16) == 0, status
    assert set(status["Uid"].split()) == {str(NOBODY)}


@pytest.mark.usefixtures("libraries")
def test_what_is_served_is_archived_once(guest: lab.Guest) -> None:
    dataset = guest.io / "served"
    words = ["serve", "--side", "guest", "--archive-every", "2s", "-o", "/root/served", "--to", "/io/served"]
    libraries = unpack_archive_libraries(guest)
    environment = {"PYTHONPATH": f"{ENVIRONMENT['PYTHONPATH']}:{libraries}"}
    serving = guest.start(["python3", "-P", "-m", "balloontrace", *words], env=environment)
    serving.wait_for(SERVING, ATTACH_S)

    def pieces() -> set[str]:
        return set(guest.run(shell("ls /root/served 2>/dev/null || true")).stdout.split())

    guest.wait_until(lambda: bool(pieces()), ATTACH_S, what="the first piece")
    for target_mib in (FULL_MIB - 53, FULL_MIB - 13, FULL_MIB):
        move(guest, target_mib)
        of_move = pieces()
        guest.wait_until(lambda: not of_move & pieces(), ARCHIVED_S, what="a dataset with the move")  # noqa: B023
    values = scrape(guest)
    serving.signal(signal.SIGTERM)
    ended = serving.wait(ARCHIVED_S)
    assert ended.status == 0, ended.describe()
    assert "could not be archived" not in ended.stderr
    assert not pieces()
    query = "SELECT kind, outcome, bytes, sends FROM operations ORDER BY started_at_ns"
    done = balloontrace("fleet", dataset, "--sql", query, "--format", "json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["rows"]
    moves = [(row["kind"], row["outcome"], row["bytes"] >> 20) for row in rows]
    assert moves == [("inflate", "reached", 53), ("deflate", "reached", 40), ("deflate", "reached", 13)]
    for kind in ("inflate", "deflate"):
        moved = sum(row["bytes"] for row in rows if row["kind"] == kind)
        assert one(values, "moved_bytes_total", queue=kind) == moved
    assert one(values, "sends_total") == sum(row["sends"] for row in rows)
    assert one(values, "operations_total", outcome="reached") == len(rows)


@pytest.mark.usefixtures("libraries", "kvm", "_hostserve")
def test_every_vm_of_a_host_is_served(guest: lab.Guest, tmp_path: Path) -> None:
    servers = {name: Server(guest, name, vm=name) for name in ("served1", "served2")}
    serving = start(guest, "host", "--count-freed")
    recorder = record(guest, "/root/host.bt", "--side", "host", "--all", "--count-freed")
    for server, calls in zip(servers.values(), (131, 53), strict=True):
        server.serve(WARM_UP, f"dontneed {calls}", "fail 3")
    values = scrape(guest)
    check_by_promtool(guest)
    late = Server(guest, "late", vm="late")
    servers["served2"].end()
    scrape_until(guest, lambda now: named(now) == {"served1", "late"}, "the late VM, and none that has ended")
    recorder.end()
    status = status_of(guest, serving.pid)
    serving.signal(signal.SIGTERM)
    assert serving.wait(60).status == 0
    for server in (servers["served1"], late):
        server.end()
    path = recorder.pull(tmp_path)
    for name, calls in (("served1", 131), ("served2", 53)):
        (recorded,) = (
            each for each in report(path, "--vm", name)["host"]["calls"] if each["call"] == "madvise_dontneed"
        )
        assert (
            one(values, "host_calls_total", vm=name, call="madvise_dontneed")
            == recorded["calls"]
            == calls + 3
        )
        assert one(values, "host_call_bytes_total", vm=name, call="madvise_dontneed") == recorded["bytes"]
        assert (
            one(values, "host_call_errors_total", vm=name, call="madvise_dontneed") == recorded["errors"] == 3
        )
        for metric, what in (("freed_bytes", "freed_bytes"), ("calls_freed_nothing", "freed_nothing")):
            counted = one(values, f"host_{metric}_total", vm=name, call="madvise_dontneed")
            assert counted == recorded[what], metric
        assert recorded["freed_bytes"] == calls * PAGE_BYTES
        assert one(values, "buffers_total", vm=name) == 2
        assert one(values, "host_events_lost_total", vm=name) == 0
    assert one(values, "host_calls_missed_total") == 0
    assert one(values, "host_program_seconds_total") > 0
    allowed = 1 << 2 | 1 << 19
    assert int(status["CapEff"], 16) & ~allowed == 0
    assert set(status["Uid"].split()) == {str(NOBODY)}


def named(values: Values) -> set[str]:
    """The VMs that are told of."""
    return {dict(labels)["vm"] for name, labels in values if name == "balloontrace_vm_info"}
