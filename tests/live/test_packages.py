# SPDX-License-Identifier: GPL-2.0-or-later
"""The bundle in a guest with Python and libbpf alone: no click, no bcc, no compiler."""

from __future__ import annotations

from pathlib import Path

from tracing import MIB_PAGES, Recorder, assert_whole, balloontrace, move, outcomes, report

import lab
from lab.kernels import IMAGES

FULL_MIB = 2048
MOVED_MIB = 1031


def test_one_file_traces_where_nothing_is_installed(tmp_path: Path) -> None:
    made = balloontrace("bundle", "-o", tmp_path / "balloontrace.pyz")
    assert made.returncode == 0, made.stderr
    with lab.solo(spec=IMAGES["trixie-bare-6.18"], memory_mib=FULL_MIB, cpus=1) as guest:
        bundle = guest.push(tmp_path / "balloontrace.pyz")
        doctor = guest.run(["python3", bundle, "doctor"], check=True).stdout
        assert "prebuilt   BPF programs compiled for x86_64, libbpf 1." in doctor
        assert guest.run(["python3", "-c", "import click"]).status == 1
        words = [bundle, "record", "-o", "/root/bundle.bt", "--operations", "2"]
        recorder = Recorder(guest, "/root/bundle.bt", guest.start(words)).wait_attached()
        move(guest, FULL_MIB - MOVED_MIB)
        move(guest, FULL_MIB)
        assert recorder.wait().status == 0
        found = report(recorder.pull(tmp_path))
        assert_whole(found)
        pages = MOVED_MIB * MIB_PAGES
        assert outcomes(found) == [("inflate", "reached", pages), ("deflate", "reached", pages)]
        assert found["header"]["engine"] == "prebuilt"
        shown = guest.run([bundle, "top", "--plain", "-n", "3", "-i", "200ms"], check=True)
        assert len(shown.stdout.splitlines()) == 4  # the header too
        elsewhere = guest.run([bundle, "report", "/root/bundle.bt"])
        assert (elsewhere.status, "where balloontrace is installed" in elsewhere.stderr) == (2, True)
