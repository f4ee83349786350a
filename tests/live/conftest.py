# SPDX-License-Identifier: GPL-2.0-or-later
"""What live tests share: one guest for the whole session, left as found by each, and the marker `live`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from backings import Backings, made_ready
from hostserve import Server, build_hostserve
from tracing import FULL_MIB, assert_no_trace, put_back, shell

import lab
from lab.steady import fill_no_huge_pages

HERE = Path(__file__).parent
# Files that take minutes, the longest first: one that began last would leave the others' processors idle.
LONGEST = (
    "test_host_memory.py",
    "test_host_memory_kernel.py",
    "test_measure_nested.py",
    "test_both_sides.py",
    "test_discards_nested.py",
    "test_engines.py",
    "test_host_memory_nested.py",
    "test_docs.py",
    "test_page_reporting.py",
    "test_both_sides_backend.py",
    "test_allocation.py",
    "test_driver.py",
    "test_metrics.py",
    "test_all_vms.py",
    "test_nested.py",
    "test_host_side.py",
    "test_two_balloons_nested.py",
    "test_service.py",
    "test_slowed_nested.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks everything in this folder; a live test that cannot run fails, it is never skipped."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.live)
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


@pytest.fixture(scope="session")
def guest() -> Iterator[lab.Guest]:
    """A guest with 8 GiB, 2 CPUs and a balloon; tests leave it as they found it, the balloon empty."""
    with lab.solo(memory_mib=FULL_MIB, cpus=2) as booted:
        fill_no_huge_pages(booted)
        yield booted


@pytest.fixture(autouse=True)
def _left_as_found(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test that used `guest`: no recorder and no probe is left, and the balloon is put back."""
    yield
    if "guest" in request.fixturenames:
        used: lab.Guest = request.getfixturevalue("guest")
        used.check_alive()
        assert_no_trace(used)
        put_back(used)


@pytest.fixture(scope="session")
def _hostserve(guest: lab.Guest) -> None:
    build_hostserve(guest)


@pytest.fixture
def server(guest: lab.Guest, _hostserve: None) -> Iterator[Server]:
    started = Server(guest, "traced")
    yield started
    guest.run(shell(f"kill -KILL {started.pid}; rm -f {started.orders}"))


@pytest.fixture(scope="module")
def _backings(guest: lab.Guest) -> Iterator[None]:
    with made_ready(guest):
        yield


@pytest.fixture
def backings(guest: lab.Guest, _backings: None, request: pytest.FixtureRequest) -> Iterator[Backings]:
    """In a control group of its own, unless the parameter is False."""
    served = Backings(guest, in_group=getattr(request, "param", True))
    yield served
    guest.run(shell(f"kill -KILL {served.pid}"))
    served.process.wait(30)
