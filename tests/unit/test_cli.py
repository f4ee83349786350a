# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line, as a process of its own where that matters: exit statuses, one sentence each, speed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import command_process
import command_tree
import pytest
from command_process import EXAMPLE, MAIN, ROOT, balloontrace_command, sentence
from fake_system import lay_out_bcc

import balloontrace

HELP_S = 0.3
HEAVY = {"bcc", "numpy", "pandas", "rich", "scipy", "tabulate"}


@pytest.fixture
def untraceable(tmp_path: Path) -> dict[str, str]:
    return command_process.untraceable(tmp_path)


# ---- doctor and record on a machine that cannot be traced ----


def test_doctor_says_no(untraceable: dict[str, str]) -> None:
    done = balloontrace_command("doctor", "--engine", "bcc", env=untraceable)
    assert done.returncode == 3
    assert sentence(done).startswith("cannot trace here: ")
    words = " ".join(done.stdout.split())
    assert "NO bcc the installed Python package bcc is not the BPF Compiler Collection" in words
    assert "-> install python3-bpfcc" in words
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_doctor_says_no_in_json(untraceable: dict[str, str]) -> None:
    done = balloontrace_command("doctor", "--format", "json", "--engine", "bcc", env=untraceable)
    assert done.returncode == 3
    found = json.loads(done.stdout)
    assert (found["schema_version"], found["can_trace"]) == (1, False)
    states = {finding["name"]: finding["state"] for finding in found["findings"]}
    assert states["bcc"] == "problem"
    fixes = {finding["name"]: finding["mend"] for finding in found["findings"]}
    assert all(fixes[name] for name, state in states.items() if state == "problem")


@pytest.mark.parametrize("words", [[], ["--side", "host"]])
def test_doctor_of_a_process(untraceable: dict[str, str], words: list[str]) -> None:
    done = balloontrace_command("doctor", *words, "-p", str(os.getpid()), env=untraceable)
    assert f"vmm process {os.getpid()} " in " ".join(done.stdout.split())


@pytest.mark.parametrize("verb", ["doctor", "record", "top"])
@pytest.mark.parametrize("words", [[], ["--side", "host"]])
def test_a_process_that_is_gone(verb: str, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    gone = command_tree.run(capsys, verb, *words, "-p", str(1 << 30))
    assert gone.status == 2
    assert gone.stderr.startswith(f"balloontrace: -p {1 << 30}: there is no such process")


def test_record_says_why_not_and_leaves_nothing(untraceable: dict[str, str], tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    done = balloontrace_command("record", "--side", "guest", "-o", "out.bt", env=untraceable, cwd=here)
    assert (done.returncode, done.stdout) == (3, "")
    assert sentence(done).startswith("cannot trace here: ")
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("words", [[], ["--plain"]])
def test_top_says_why_not(untraceable: dict[str, str], words: list[str]) -> None:
    done = balloontrace_command("top", "--side", "guest", *words, env=untraceable)
    assert (done.returncode, done.stdout) == (3, "")
    assert sentence(done).startswith("cannot trace here: ")


def test_record_keeps_what_was_there(untraceable: dict[str, str], tmp_path: Path) -> None:
    kept = tmp_path / "out.bt"
    kept.write_text("kept")
    assert (
        balloontrace_command("record", "--side", "guest", "-f", "-o", str(kept), env=untraceable).returncode
        == 3
    )
    refused = balloontrace_command("record", "--side", "guest", "-o", str(kept), env=untraceable)
    assert refused.returncode == 2
    assert sentence(refused) == f"{kept} exists already; give another name, or -f to replace it"
    assert kept.read_text() == "kept"


def test_record_into_a_pipe_writes_nothing_that_is_no_recording(untraceable: dict[str, str]) -> None:
    done = balloontrace_command("record", "--side", "guest", "-o", "-", env=untraceable)
    assert (done.returncode, done.stdout) == (3, "")


# ---- usage ----


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["no-such-command"], "No such command"),
        (["record", "--no-such-option"], "No such option"),
        (["doctor", "--side", "guest", "-p", "1"], "-p names a process of the host"),
        (["record", "--operations", "0"], "--operations"),
        (["record", "--operations", "many"], "--operations"),
        (["record", "-d", "0"], "-d"),
        (["record", "-d", "-1"], "-d"),
        (["record", "-d", "nan"], "-d"),
        (["record", "--buffer", "3K"], "--buffer"),
        (["record", "--buffer", "48K"], "power of two"),
        (["record", "--buffer", "512M"], "from 4K to 256M"),
        (["record", "--buffer", "lots"], "'lots' is not a size; write for example 512M"),
        (["record", "-d", "10 parsecs"], "'10 parsecs' is not a duration; write for example 10s"),
        (["record", "--attach", "ftrace"], "--attach"),
        (["record", "--pair", " "], "--pair takes a name"),
        (["top", "-i", "10ms"], "10ms is too short; the least is 100ms"),
        (["top", "-i", "soon"], "'soon' is not a duration"),
        (["top", "-n", "0"], "--count"),
        (["top", "-d", "0s"], "is not a duration"),
        (["top", "--side", "guest", "-p", "1"], "-p names a process of the host"),
        (["record", "--missing-probes", "ignore"], "--missing-probes"),
        (["record", "-o", "/no/such/folder/out.bt"], "/no/such/folder"),
        (["record", "-o", "/"], "names a folder"),
        (["record", "-o", "/tmp"], "exists already"),
        (["record", "-f", "-o", "/tmp"], "not a regular file"),
        (["record", "--", "no-such-program"], "cannot run no-such-program"),
        (["record", "--", "/etc/passwd"], "cannot run /etc/passwd"),
        (["doctor", "--format", "xml"], "--format"),
        (["doctor", "something"], "something"),
        (["report"], "RECORDING"),
    ],
)
def test_usage_errors(
    words: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    done = command_tree.run(capsys, *words)
    assert (done.status, done.stdout) == (2, ""), done.stderr
    assert said in done.stderr
    assert list(tmp_path.iterdir()) == []


UNREADABLE = {
    "no-such.bt": "No such file or directory",
    "folder": "Is a directory",
    "x" * 300: "File name too long",
    "loop.bt": "Too many levels of symbolic links",
}


@pytest.mark.parametrize(
    "words",
    [
        ["report", "{}"],
        ["report", EXAMPLE, "{}"],
        ["export", "{}"],
        ["export", "{}", "--format", "perfetto"],
        ["compare", "{}", EXAMPLE],
        ["compare", EXAMPLE, "{}"],
    ],
)
def test_a_recording_that_cannot_be_read_is_usage_everywhere(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop.bt").symlink_to("loop.bt")
    for name, reason in UNREADABLE.items():
        if words[0] == "compare" and name == "folder":
            continue  # a folder of recordings it is there
        done = command_tree.run(capsys, *(word.format(name) for word in words))
        assert (done.status, done.stdout) == (2, ""), (name, done.stderr)
        assert done.stderr == f"balloontrace: cannot read {name}: {reason}\n"


def test_a_recording_does_not_go_to_a_terminal() -> None:
    leader, follower = os.openpty()
    done = subprocess.run(
        [sys.executable, "-c", MAIN, "record", "-o", "-"],
        stdout=follower,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        cwd=ROOT,
    )
    os.close(leader)
    os.close(follower)
    assert done.returncode == 2
    assert "standard output is a terminal" in done.stderr


@pytest.mark.parametrize(
    "words", [["--version"], ["--help"], ["-h"], ["record", "--help"], ["doctor", "--help"]]
)
def test_what_is_asked_for_is_no_error(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    done = command_tree.run(capsys, *words)
    assert (done.status, done.stderr) == (0, "")
    assert done.stdout


def test_version() -> None:
    assert balloontrace.__version__ in balloontrace_command("--version").stdout


def test_module_and_function_are_the_same_command() -> None:
    by_module = subprocess.run(
        [sys.executable, "-m", "balloontrace", "--help"], capture_output=True, text=True, cwd=ROOT, timeout=60
    )
    assert by_module.stdout == balloontrace_command("--help").stdout


# ---- interrupts before the recording has begun ----


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_setting_up_leaves_nothing(tmp_path: Path, number: int) -> None:
    """`diagnose` hangs as long as it likes in a bcc whose version file is a pipe nobody writes."""
    python = lay_out_bcc(tmp_path / "python")
    (python / "bcc/version.py").unlink()
    os.mkfifo(python / "bcc/version.py")
    here = tmp_path / "here"
    here.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", MAIN, "record", "-o", "out.bt"],
        cwd=here,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(python)])},
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline_s = time.monotonic() + 30
    while not list(here.iterdir()):
        assert time.monotonic() < deadline_s
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    time.sleep(0.1)
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    assert (process.returncode, said.strip()) == (130, "balloontrace: interrupted")
    assert list(here.iterdir()) == []


# ---- soon ----


def test_help_is_soon() -> None:
    """By processor time: what else the machine does takes none of it."""
    times_s = []
    for _ in range(5):
        before = os.times()
        assert balloontrace_command("--help").returncode == 0
        after = os.times()
        times_s.append(
            after.children_user + after.children_system - before.children_user - before.children_system
        )
    assert min(times_s) < HELP_S


@pytest.mark.parametrize(
    "words",
    [["--help"], ["--version"], *([verb, "--help"] for verb in ("record", "doctor", "report", "top"))],
)
def test_help_imports_nothing_heavy(words: list[str]) -> None:
    script = f"import sys, atexit\natexit.register(lambda: print(sorted({HEAVY} & set(sys.modules))))\n{MAIN}"
    done = subprocess.run(
        [sys.executable, "-c", script, *words], capture_output=True, text=True, cwd=ROOT, timeout=60
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_record_imports_nothing_heavy(untraceable: dict[str, str], tmp_path: Path) -> None:
    script = (
        "import sys, atexit\n"
        f"atexit.register(lambda: print(sorted({HEAVY} & set(sys.modules))))\n"
        "import balloontrace.trace.guest.collector, balloontrace.trace.session\n"
        f"{MAIN}"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "record", "-o", str(tmp_path / "out.bt")],
        capture_output=True, text=True, cwd=ROOT, timeout=60, env={**os.environ, **untraceable},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (3, "[]\n")
