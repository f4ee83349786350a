# SPDX-License-Identifier: GPL-2.0-or-later
"""Packages: the archive is read from apt whatever its sources look like, failures are sentences."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
from collections.abc import Sequence

import pytest

from lab import packages
from lab.errors import LabError
from lab.packages import parse_apt_proxies, parse_indextargets, tail_lines
from lab.progress import Progress

# As `apt-get indextargets` prints it with our format; the names of archives are made up.
INDEXTARGETS = (
    "Translations\tDebian\tDebian\tmirror://one/debian/\n"
    "Packages\tDebian\tDebian\tmirror://one/debian/\n"
    "Packages\tDebian\tDebian\tmirror://one/debian/\n"
    "Packages\tDebian\tDebian-Security\tmirror://one/debian-security/\n"
    "Packages\tSomebody\tTools\tmirror://tools/apt/\n"
    "Packages\tDebian\tDebian\tmirror://two/debian/\n"
)


def test_mirrors_are_those_of_debian_each_once_in_order() -> None:
    assert parse_indextargets(INDEXTARGETS) == ["mirror://one/debian/", "mirror://two/debian/"]


@pytest.mark.parametrize("text", ["", "\n", "Packages\tDebian\n", "Packages\tUbuntu\tUbuntu\tmirror://u/\n"])
def test_no_mirror_is_found_where_there_is_none(text: str) -> None:
    assert parse_indextargets(text) == []


def test_proxies_are_taken_over_and_nothing_else() -> None:
    dump = (
        'Acquire "";\nAcquire::cdrom "";\nAcquire::http "";\nAcquire::http::Proxy "proxy:3142";\n'
        'Acquire::https::Proxy "";\nAcquire::http::Proxy::host "DIRECT";\nAcquire::http::Timeout "5";\n'
    )
    assert parse_apt_proxies(dump) == [
        'Acquire::http::Proxy "proxy:3142";',
        'Acquire::http::Proxy::host "DIRECT";',
    ]


def test_nothing_missing_runs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("ran something"))
    packages.install([], Progress(io.StringIO()))


def test_apt_that_fails_is_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(command: Sequence[str], **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(
            list(command), 100, "Reading...\n", "E: Unable to locate package nope\n"
        )

    monkeypatch.setattr(subprocess, "run", fails)
    monkeypatch.setattr(packages, "root_prefix", lambda _by_hand: [])
    with pytest.raises(LabError) as failed:
        packages.install(["nope"], Progress(io.StringIO()))
    assert "could not update its package lists, to install nope (status 100)" in str(failed.value)
    assert "E: Unable to locate package nope" in str(failed.value)


def test_without_root_and_sudo_the_command_to_run_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(shutil, "which", lambda name, **_: "/usr/bin/apt-get" if name == "apt-get" else None)
    with pytest.raises(LabError, match=r"run as root: apt-get install --no-install-recommends mmdebstrap"):
        packages.install(["mmdebstrap"], Progress(io.StringIO()))


def test_tail_leaves_out_empty_lines() -> None:
    assert tail_lines("a\n\nb\n  \nc\n", 2) == "b\nc"
