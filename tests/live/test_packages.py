# SPDX-License-Identifier: GPL-2.0-or-later
"""What others get, used in guests: the bundle with Python and libbpf alone, the wheel, the Debian package."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tracing import FULL_MIB, MIB_PAGES, Recorder, assert_whole, balloontrace, move, outcomes, report

import lab
from lab.kernels import IMAGES
from packages.__main__ import make_all

MOST_MIB = 7 * 1024
MOVED_MIB = 1031
# Under emulation, on a busy machine: the bundle's modules are compiled each time, the package's once.
START_S = 300
PACKAGE = "/usr/lib/python3/dist-packages/balloontrace"


def test_one_file_traces_where_nothing_is_installed(tmp_path: Path) -> None:
    made = balloontrace("bundle", "-o", tmp_path / "balloontrace.pyz")
    assert made.returncode == 0, made.stderr
    with lab.solo(spec=IMAGES["trixie-bare-7"], memory_mib=FULL_MIB, cpus=1) as guest:
        bundle = "/root/balloontrace.pyz"
        guest.run(["cp", guest.push(tmp_path / "balloontrace.pyz"), bundle], check=True)
        doctor = guest.run(["python3", bundle, "doctor"], check=True, timeout_s=START_S).stdout
        assert "prebuilt   BPF programs compiled for x86_64, libbpf 1." in doctor
        assert guest.run(["python3", "-c", "import click"]).status == 1
        words = [bundle, "record", "-o", "/root/bundle.bt", "--operations", "2"]
        recorder = Recorder(guest, "/root/bundle.bt", guest.start(words)).wait_attached()
        move(guest, FULL_MIB - MOST_MIB)
        move(guest, FULL_MIB)
        assert recorder.wait().status == 0
        found = report(recorder.pull(tmp_path))
        assert_whole(found)
        pages = MOST_MIB * MIB_PAGES
        assert outcomes(found) == [("inflate", "reached", pages), ("deflate", "reached", pages)]
        assert found["header"]["engine"] == "prebuilt"
        shown = guest.run([bundle, "top", "--plain", "-n", "3", "-i", "200ms"], check=True, timeout_s=START_S)
        assert len(shown.stdout.splitlines()) == 4  # the header too
        elsewhere = guest.run([bundle, "report", "/root/bundle.bt"])
        assert (elsewhere.status, "where balloontrace is installed" in elsewhere.stderr) == (2, True)


def test_package_and_wheel_record(guest: lab.Guest, tmp_path: Path) -> None:
    wheel, _, _, deb = make_all(tmp_path)
    target = tmp_path / "wheel"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-compile", "--target"]
    subprocess.run([*pip, target, wheel], check=True)
    guest.run(["dpkg", "-i", guest.push(deb)], check=True, timeout_s=START_S)
    of_wheel = {"PYTHONPATH": guest.push(target)}
    recorders = [
        Recorder(
            guest,
            f"/root/{name}.bt",
            guest.start([*words, "record", "-o", f"/root/{name}.bt", "--operations", "1"], env=env),
        )
        for name, words, env in (
            ("deb", ["/usr/bin/balloontrace"], None),
            ("wheel", ["python3", "-P", "-m", "balloontrace"], of_wheel),
        )
    ]
    for recorder in recorders:
        recorder.wait_attached()
    move(guest, FULL_MIB - MOVED_MIB)
    for recorder in recorders:
        assert recorder.wait().status == 0
        found = report(recorder.pull(tmp_path))
        assert_whole(found)
        assert outcomes(found) == [("inflate", "reached", MOVED_MIB * MIB_PAGES)]
        assert found["header"]["engine"] == "prebuilt"
    guest.run(["dpkg", "--purge", "balloontrace"], check=True, timeout_s=START_S)
    assert guest.run(["test", "-e", PACKAGE]).status == 1
