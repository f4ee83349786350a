# SPDX-License-Identifier: GPL-2.0-or-later
"""Every command that the pages show is run, and shows what they say it shows."""

from __future__ import annotations

import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from pages import console_blocks, indented_commands
from tracing import ATTACH_S, ATTACHED, FULL_MIB, MIB_PAGES, ROOT, balloontrace, shell

import lab
from balloontrace.commands.serve import DEFAULT_LISTEN

# It is followed by tests of its own, since it needs a way into the guest.
MEASURE = "docs/measure.md"
PAGES = sorted(
    {
        str(path.relative_to(ROOT))
        for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "examples/README.md")
    }
    - {MEASURE}
)
BUNDLE = "balloontrace.pyz"
DATASET = "months"
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
FROM_A_CHECKOUT = "PYTHONPATH=. python3 -m "
KPROBES = "/sys/kernel/debug/kprobes/list"
SHOWN_MIB = 7168
SOME_MIB = 257  # where nothing is said of how much it was
DEMO_S = 1800


# What two pages show alike is run once, and what they show is run by the test of that.
SHOWN = sorted({
    (command, tuple(shown)) for page in PAGES for command, shown in console_blocks(page) if shown
})  # fmt: skip


def find_commands() -> list[str]:
    """Those of all pages, without what SHOWN runs; of those that differ in the name of a recording one."""
    written = {
        command for page in PAGES
        for command in [*indented_commands(page), *(command for command, _ in console_blocks(page))]
    }  # fmt: skip
    by_kind = {re.sub(r"-o [\w.-]+\.bt", "-o NAME.bt", command): command for command in sorted(written)}
    return sorted(set(by_kind.values()) - {command for command, _ in SHOWN})


COMMANDS = find_commands()


def test_there_are_commands() -> None:
    assert len(COMMANDS) > 10
    assert len(SHOWN) >= 2


@pytest.fixture(scope="module")
def folder(guest: lab.Guest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where commands for "anywhere" run: examples, a dataset of them, a recording fetched from a guest."""
    place = tmp_path_factory.mktemp("anywhere")
    shutil.copytree(ROOT / "examples", place / "examples")
    (place / "recordings").symlink_to(place / "examples")
    balloontrace_in(place, f"balloontrace archive recordings/ --to {DATASET}")
    guest.run(
        ["balloontrace", "record", "-f", "-o", "/io/guest.bt", "-d", "1"], timeout_s=ATTACH_S, check=True
    )
    for name in ("guest.bt", "balloon.bt"):
        shutil.copyfile(guest.io / "guest.bt", place / name)
    return place


@pytest.mark.parametrize("command", COMMANDS)
def test_command_runs(command: str, guest: lab.Guest, folder: Path) -> None:
    words = re.sub(r"^(python -m lab run( --name \S+)? -- |ssh guest |sudo )*", "", command)
    if words.startswith("python -m lab up "):
        assert_known_options(words)
    elif words.startswith("balloontrace measure "):
        assert words in [command.removeprefix("sudo ") for command in indented_commands(MEASURE)]
    elif words.startswith("make "):
        subprocess.run(["make", "-n", *words.split()[1:]], cwd=ROOT, check=True, capture_output=True)
    elif words.startswith("apt install "):
        packages = words.removeprefix("apt install ")
        guest.run(shell(f"dpkg -s {packages}"), check=True)
    elif words == "balloontrace serve":
        balloontrace_in(folder, f"{words} --help")  # test_metrics has it serve
    elif "--archive-every" in words:
        # What it does needs more than a guest has; tests of pieces do it.
        shown = balloontrace_in(folder, f"{' '.join(words.split()[:2])} --help")
        assert set(re.findall(r"--[\w-]+", words)) <= set(re.findall(r"--[\w-]+", shown))
    elif words.startswith("curl "):
        assert words == f"curl -s http://{DEFAULT_LISTEN}/metrics"
    elif words.startswith("systemctl "):
        assert (ROOT / "packages" / f"{words.split()[-1]}.service").is_file()
    elif extra := re.fullmatch(r"pip install 'balloontrace\[(\w+)\]'", words):
        assert extra[1] in EXTRAS
    elif words == f"scp {BUNDLE} guest:":
        put_bundle(folder, guest)
    elif "record" in words.split():
        if words.startswith(f"./{BUNDLE} "):
            put_bundle(folder, guest)
        run_record(words, guest, SOME_MIB)
    elif words.startswith("bpftrace "):
        run_bpftrace(words, guest)
    elif "doctor" in words:
        guest.run(shell(f"cd /repo && {words}"), check=True)
    else:
        words = words.removeprefix(FROM_A_CHECKOUT)
        # Both sides of one balloon, as no single guest records them.
        words = words.replace(
            " guest.bt host.bt", " examples/nested-qemu-guest.bt examples/nested-qemu-host.bt"
        )
        # A folder and an object store that are not here. What is in the folder may be removed.
        if "/var/lib/balloontrace" in words:
            shutil.copytree(folder / "examples", folder / "spool", dirs_exist_ok=True)
        words = words.replace("/var/lib/balloontrace", "spool/").replace("s3://bucket/", "stored-")
        assert words.startswith("balloontrace "), f"no test for {command!r}"
        balloontrace_in(folder, words)


def assert_known_options(words: str) -> None:
    """Have `lab` say of a command that it knows each option; what it does has tests of its own."""
    verb, *rest = words.removeprefix("python -m lab ").split()
    done = subprocess.run(
        [sys.executable, "-m", "lab", verb, "--help"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert {word for word in rest if word.startswith("--")} <= set(re.findall(r"--[\w-]+", done.stdout))


def put_bundle(folder: Path, guest: lab.Guest) -> None:
    """Have the one file where a guest's commands are run."""
    balloontrace_in(folder, f"balloontrace bundle -f -o {BUNDLE}")
    shutil.copy(folder / BUNDLE, guest.io)


def run_bpftrace(words: str, guest: lab.Guest) -> None:
    """Run a `bpftrace` command of a probe and its return until both are attached."""
    tracer = guest.start(shell(f"exec {words.replace('PID', '1')}"))
    tracer.wait_for(b"Attaching 2 probes", ATTACH_S, stream="stdout")

    def are_attached() -> bool:
        assert tracer.poll() is None, tracer.wait().describe()
        return guest.run(["cat", KPROBES], check=True).stdout.count("\n") == 2

    guest.wait_until(are_attached, ATTACH_S, what="both probes of bpftrace")
    # Its status says nothing: an end in the moment before its loop is a failure to it.
    tracer.signal(signal.SIGINT)
    assert "ERROR" not in tracer.wait(120).stderr


def run_record(words: str, guest: lab.Guest, inflate_mib: int) -> lab.Completed:
    """Run a `record` command, ended as it asks to be: by a duration, by an inflate, or by Ctrl-C."""
    place = "/repo" if FROM_A_CHECKOUT in words else "/io"
    words = re.sub(r"-d \d+", "-d 1", words)
    out = re.search(r"-o ([\w./-]+\.bt)", words)
    # Any process will do: what is to be seen is that the command is right.
    words = re.sub(r"-p PID", f"-p {guest.start(['sleep', '3600']).pid}", words)
    recorder = guest.start(shell(f"cd {place} && rm -f {out[1] if out else ''} && exec {exec_form(words)}"))
    recorder.wait_for(ATTACHED, ATTACH_S)
    if "--operations 1" in words:
        guest.set_balloon(target_mib=FULL_MIB - inflate_mib)
        guest.wait_balloon(timeout_s=120)
    elif "-d 1" not in words:
        recorder.signal(signal.SIGINT)
    return recorder.wait(120, check=True)


def exec_form(words: str) -> str:
    """`exec` takes no assignments before the command; `env` does."""
    return f"env {words}" if "=" in words.split()[0] else words


def balloontrace_in(place: Path, words: str) -> str:
    done = balloontrace(*shlex.split(words.replace("$(hostname)", platform.node()))[1:], cwd=place)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(("command", "shown"), SHOWN, ids=[command for command, _ in SHOWN])
def test_command_shows_what_the_page_says(
    command: str, shown: tuple[str, ...], guest: lab.Guest, folder: Path
) -> None:
    words = command.removeprefix("sudo ")
    if "record" in words:
        lines = run_record(words, guest, SHOWN_MIB).stderr.strip().splitlines()
    else:
        lines = balloontrace_in(folder, words).splitlines()
    # "..." on a page stands for what differs from run to run.
    patterns = [".*".join(re.escape(part) for part in line.split("...")) for line in shown]
    assert len(lines) == len(patterns)
    for line, pattern in zip(lines, patterns, strict=True):
        assert re.fullmatch(pattern, line), f"{line!r} is not {pattern!r}"


@pytest.mark.parametrize("text", sorted((ROOT / "examples").glob("*.txt")), ids=lambda path: path.stem)
def test_examples_say_what_lies_beside_them(text: Path, folder: Path) -> None:
    words = f"report {text.stem}-guest.bt {text.stem}-host.bt"
    if text.with_suffix(".bt").exists():
        words = f"report {text.stem}.bt"
    elif text.stem == "before-after":
        words = "compare before after"
    assert balloontrace_in(folder / "examples", f"balloontrace {words}") == text.read_text()


def test_every_example_has_a_report() -> None:
    for recording in (ROOT / "examples").glob("*.bt"):
        stem = recording.stem.removesuffix("-guest").removesuffix("-host")
        assert (recording.parent / f"{stem}.txt").exists()


def test_the_examples_hold_the_workload_of_2016(folder: Path) -> None:
    for name, kind in (("stock-inflate", "balloon_inflate"), ("stock-deflate", "balloon_deflate")):
        rows = balloontrace_in(folder, f"balloontrace report examples/{name}.bt").splitlines()
        check = next(row for row in rows if row.startswith(kind))
        assert check.split()[-1] == "yes"
        assert check.count("1 835 008") == 2
    assert 7168 * MIB_PAGES == 1_835_008


def test_the_demo() -> None:
    done = subprocess.run(["make", "demo"], cwd=ROOT, capture_output=True, text=True, timeout=DEMO_S)
    assert done.returncode == 0, done.stderr
    before, after, side_by_side = done.stdout.partition("patched driver")[0], *done.stdout.rsplit("\n\n", 1)
    # Both recordings agree with the kernel's count of pages, by their spans, by their payloads and
    # by what the device says of the balloon's size.
    assert len(re.findall(r"1 835 008 +1 835 008 /proc/vmstat +yes", done.stdout)) == 6
    assert "(PFN array)" in before
    assert "(response data)" in after
    assert "bitmap fill" in after
    rows = {line.split("  ")[0]: line.split()[-2:] for line in side_by_side.splitlines()[2:]}
    assert rows["sends"][0] == "7168"
    assert int(rows["sends"][1]) < 100
    assert rows["pages_named"] == ["1835008", "1835008"]
    assert "nothing is left running" in done.stderr
