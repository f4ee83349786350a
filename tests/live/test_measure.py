# SPDX-License-Identifier: GPL-2.0-or-later
"""`measure` over ssh, on a guest with Python and libbpf alone; what goes wrong leaves nothing behind."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from measuring import Measuring, Reached, assert_nothing_left, reached
from pages import indented_commands, shell_blocks
from tracing import MIB_PAGES, ROOT, balloontrace, change, outcomes, report, shell
from vmm_stand_in import standing_in

from balloontrace.measure.getting_ready import STEPS
from lab.errors import VMLost
from lab.kernels import IMAGES
from lab.packages import Requirement, ensure_packages
from lab.ssh import DESTINATION

MEMORY_MIB = 512
TAKEN_MIB = 67
COUNTERS = ("balloon_inflate", "balloon_deflate")
SETTLED_S = 0.1
QUICK = ("--guest-only", "--settle", "100ms")


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reached]:
    """No balloontrace that runs, no click, no bcc, no compiler, no headers."""
    with reached(tmp_path_factory.mktemp("ssh"), MEMORY_MIB, IMAGES["trixie-bare-6.12"]) as there:
        yield there


@pytest.fixture(autouse=True)
def _left_as_found(bare: Reached, request: pytest.FixtureRequest) -> Iterator[None]:
    """The balloon is empty again, and nothing of `measure` is in the guest."""
    yield
    if "powered_off" not in request.node.name:
        assert bare.guest.balloon_actual_bytes() == MEMORY_MIB << 20
        assert_nothing_left(bare.guest)


def test_rounds_on_a_guest_with_python_and_libbpf_only(bare: Reached, tmp_path: Path) -> None:
    out = tmp_path / "out"
    before, connections = bare.guest.vmstat(), bare.connections()
    measuring = Measuring(
        *bare.words(), *QUICK, "--take", f"{TAKEN_MIB}M", "--rounds", "2", "--touched",
        "-o", out, "--format", "json", "--html",
    )  # fmt: skip
    status, output = measuring.wait()
    assert status == 0, measuring.said
    assert bare.connections() - connections == 1
    assert change(before, bare.guest.vmstat(), COUNTERS) == [3 * TAKEN_MIB * MIB_PAGES] * 2
    rounds = sorted(path.name for path in out.glob("*.bt"))
    assert rounds == ["round-001-guest.bt", "round-002-guest.bt"]
    assert [path.name for path in (out / "first").iterdir()] == ["round-000-guest.bt"]
    assert not (out / "incomplete").exists()
    for name in rounds:
        found = report(out / name)
        assert outcomes(found) == [
            ("inflate", "reached", TAKEN_MIB * MIB_PAGES),
            ("deflate", "reached", TAKEN_MIB * MIB_PAGES),
        ]
        assert found["header"]["label"].startswith("lab round ")
    shown = json.loads(output)
    assert (shown["vm"], shown["rounds"], shown["touched"]) == ("lab", 2, True)
    inflate, deflate = shown["moves"]
    assert [rate["label"] for rate in inflate["rates"]] == ["reclaim touched"]
    assert [rate["label"] for rate in deflate["rates"]] == ["return", "return and touch"]
    assert all(row["n"] == 2 and row["median"] > 0 for row in (*inflate["rates"], *deflate["rates"]))
    told = json.loads((out / "measure.json").read_text())
    assert str(bare.qmp) in " ".join(told["vmm"])  # so it is the right QEMU
    assert told["guest"]["kernel"].split()[0] == bare.guest.run(["uname", "-r"]).stdout.strip()
    ready_s = told["ready_s"]
    print(ready_s)
    assert set(ready_s) == set(STEPS)
    assert ready_s["settle"] >= SETTLED_S
    (told_s,) = re.findall(r"lab: ready after ([\d.]+) s", measuring.said)
    assert float(told_s) == pytest.approx(sum(ready_s.values()), abs=0.06)
    assert "<h1>lab: 2 rounds" in (out / "report.html").read_text()


def test_a_guest_reached_by_its_agent(bare: Reached, tmp_path: Path) -> None:
    """No network, no ssh: programs are run, and files fetched, by qemu-guest-agent."""
    out = tmp_path / "out"
    measuring = Measuring(
        "--qmp", bare.qmp, "--guest-agent", bare.agent, *QUICK, "--no-first", "--take", f"{TAKEN_MIB}M",
        "--rounds", "1", "--keep", "-o", out,
    )  # fmt: skip
    status, output = measuring.wait()
    assert status == 0, measuring.said
    (kept,) = re.findall(r"left in the guest: (\S+)", measuring.said)
    assert bare.guest.run(["python3", kept, "--version"]).stdout.startswith("balloontrace ")
    bare.guest.run(["rm", "-r", str(Path(kept).parent)], check=True)
    assert "reclaim untouched" in output
    assert [each[:2] for each in outcomes(report(out / "round-001-guest.bt"))] == [
        ("inflate", "reached"),
        ("deflate", "reached"),
    ]


def test_the_page_is_followed(bare: Reached, tmp_path: Path) -> None:
    """Before and after are measured and compared as docs/measure.md says, with fewer and smaller rounds."""
    followed = []
    for command in indented_commands("docs/measure.md"):
        words = shlex.split(command.removeprefix("sudo "))
        if words[1] == "measure" and "--rounds" in words:
            at = words.index("--vm")
            words[at : at + 2] = bare.words()
            at = words.index("--guest", at + len(bare.words()))
            del words[at : at + 2]
            words[words.index("--take") + 1] = f"{TAKEN_MIB}M"
            words[words.index("--rounds") + 1] = "1"
            words += [*QUICK, "--no-first"]
        elif words[1] == "report" and "before/" in command:
            del words[-1]  # the host's side is not recorded here
        elif words[1] != "compare" or "before/" not in words:
            words = words[: words.index("--")] if "--" in words else words
            known = balloontrace(words[1], "--help").stdout
            assert {word for word in words if word.startswith("--")} <= set(re.findall(r"--[\w-]+", known))
            continue
        done = balloontrace(*words[1:], cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        followed.append(words[1])
    assert followed == ["measure", "measure", "compare", "report"]


def test_recipes_of_other_vmms(bare: Reached, tmp_path: Path) -> None:
    """As the page has them, against what stands for their API sockets; not against the real programs."""
    ensure_packages((Requirement("curl", "curl"), Requirement("jq", "jq")))
    asked: list[set[str]] = []
    for number, recipe in enumerate(shell_blocks("docs/measure.md")):
        socket, out = tmp_path / f"{number}.sock", tmp_path / f"{number}"
        replaced = (
            (r"-o before/", shlex.join(["-o", str(out), *QUICK, "--no-first", "--rounds", "1"])),
            (r"^sudo balloontrace", f"{sys.executable} -m balloontrace"),
            (r"/run/\S+\.sock\b", str(socket)),
            (r"\$\(pidof \S+\)", str(bare.pid())),
            (r"--guest \S+", shlex.join(bare.words_of_guest())),
            (r"--memory \S+", f"--memory {MEMORY_MIB}M"),
            (r"--take \S+", f"--take {TAKEN_MIB}M"),
        )
        for pattern, words in replaced:
            recipe, count = re.subn(pattern, words.replace("\\", r"\\"), recipe)
            assert count, pattern
        with standing_in(socket, bare.guest, MEMORY_MIB) as requests:
            done = subprocess.run(["sh", "-c", recipe], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert [each[:2] for each in outcomes(report(out / "round-001-guest.bt"))] == [
            ("inflate", "reached"),
            ("deflate", "reached"),
        ]
        asked.append(set(requests))
    firecracker, cloud_hypervisor = asked
    assert firecracker == {"PATCH /balloon", "GET /balloon/statistics"}
    assert cloud_hypervisor == {"PUT /api/v1/vm.resize"}


def test_a_parameter_in_turn_interrupted_in_the_middle(bare: Reached, tmp_path: Path) -> None:
    """Both states come about in the guest; one Ctrl-C ends it."""
    out = tmp_path / "out"
    thp, seen = "/sys/kernel/mm/transparent_hugepage/enabled", "/root/states"
    states = [
        shlex.join(
            [*shlex.split(bare.way.command), DESTINATION, f"echo {value} > {thp}; cat {thp} >> {seen}"]
        )
        for value in ("always", "never")
    ]
    measuring = Measuring(
        *bare.words(), *QUICK, "--no-first", "--take", f"{TAKEN_MIB}M", "--rounds", "9", "-o", out,
        "--alternate", *states,
    )  # fmt: skip
    measuring.wait_for("round 1 of 9, state b: inflate")
    measuring.interrupt()
    status, output = measuring.wait()
    assert (status, output) == (130, "")
    complete = len(list(out.glob("[ab]/round-*.bt")))
    assert f"interrupted; {complete} rounds complete, kept in {out}" in measuring.said
    first, second, *_ = bare.guest.pull(seen).decode().splitlines()
    assert ("[always]" in first, "[never]" in second) == (True, True)
    for state, command in zip("ab", states, strict=True):
        found = report(out / state / "round-001-guest.bt")
        assert outcomes(found)[0][:2] == ("inflate", "reached")
        assert json.loads((out / state / "measure.json").read_text())["state_command"] == command


def test_a_disk_that_fills_up(bare: Reached, tmp_path: Path) -> None:
    """In round 2. What was complete is kept, and one sentence says what is wrong."""
    with mounted_tmpfs(tmp_path / "small", "1m") as small:
        out = small / "out"
        measuring = Measuring(
            *bare.words(), *QUICK, "--no-first", "--take", f"{TAKEN_MIB}M", "--rounds", "9", "-o", out
        )
        measuring.wait_for("round 1 of 9: inflate")
        fill(small)
        assert measuring.wait() == (1, "")
        last = measuring.said.splitlines()[-1]
        assert last.startswith(f"balloontrace: cannot write into {out}: No space left on device; ")
        assert_kept(out, last)
        assert outcomes(report(out / "round-001-guest.bt"))[0][:2] == ("inflate", "reached")
        assert json.loads((out / "measure.json").read_text())["rounds"][0]["number"] == 1


def fill(folder: Path) -> None:
    with suppress(OSError), (folder / "other").open("wb", 0) as other:
        while True:
            other.write(bytes(4096))


@contextmanager
def mounted_tmpfs(folder: Path, size: str) -> Iterator[Path]:
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def assert_kept(out: Path, sentence: str) -> None:
    """Mostly one round; on a fast machine more may end before what is done to it has come about."""
    complete = len(list(out.glob("round-*.bt")))
    assert complete, sentence
    assert f"{complete} round{'s' if complete > 1 else ''} complete, kept in {out}" in sentence


def test_ssh_is_killed(bare: Reached, tmp_path: Path) -> None:
    out = tmp_path / "out"
    measuring = Measuring(
        *bare.words(), *QUICK, "--no-first", "--take", f"{TAKEN_MIB}M", "--rounds", "9",
        "-o", out,
    )  # fmt: skip
    measuring.wait_for("round 1 of 9: inflate")
    for pid in measuring.children():
        if Path(f"/proc/{pid}/comm").read_text() == "ssh\n":
            os.kill(pid, signal.SIGKILL)
    status, _ = measuring.wait()
    assert status == 1
    last = measuring.said.splitlines()[-1]
    assert re.search(r"the connection (to \S+ )?is lost; ", last), last
    assert_kept(out, last)


def test_a_target_that_is_never_reached(bare: Reached, tmp_path: Path) -> None:
    """The command of the user's does nothing; what was recorded until then is kept apart."""
    out = tmp_path / "out"
    measuring = Measuring(
        "--set-target", ": {mib}", "--memory", f"{MEMORY_MIB}M", *bare.words_of_guest(), *QUICK,
        "--no-first", "--take", f"{TAKEN_MIB}M", "--rounds", "1", "--timeout", "500ms", "-o", out,
    )  # fmt: skip
    status, _ = measuring.wait()
    assert status == 1
    assert "has not reached its target within 0.5 s: the guest should have 445 MiB" in measuring.said
    (kept,) = (out / "incomplete").iterdir()
    assert outcomes(report(kept)) == []


def test_what_cannot_be_measured_is_refused(bare: Reached, tmp_path: Path) -> None:
    for words, sentence in (
        (["--take", f"{MEMORY_MIB - 70}M", *bare.words()], "not enough memory to take"),
        (
            ["--take", "64M", "--qmp", str(tmp_path / "no.qmp"), *bare.words_of_guest()],
            "cannot connect to QEMU",
        ),
        (["--take", "64M", *bare.words(), "--ssh", "ssh -F none -p 1"], "cannot reach the guest"),
    ):
        measuring = Measuring(*QUICK, *words, "-o", tmp_path / "out")
        assert measuring.wait() == (2, "")
        assert sentence in measuring.said
        assert measuring.said.count("\n") == 1, measuring.said
        assert not (tmp_path / "out").exists()


def test_a_guest_that_is_powered_off(bare: Reached, tmp_path: Path) -> None:
    """In round 2; the last test of this guest."""
    out = tmp_path / "out"
    measuring = Measuring(
        *bare.words(), *QUICK, "--no-first", "--take", f"{TAKEN_MIB}M", "--rounds", "9", "-o", out
    )
    measuring.wait_for("round 1 of 9: inflate")
    with suppress(VMLost):  # it may be gone before it has said that the command began
        bare.guest.start(shell("echo o > /proc/sysrq-trigger"))
    status, _ = measuring.wait()
    assert status == 1
    last = measuring.said.splitlines()[-1]
    assert "has ended or does not answer" in last
    assert_kept(out, last)
