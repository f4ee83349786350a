# SPDX-License-Identifier: GPL-2.0-or-later
"""Completion in shells: verbs with their help, options, recordings by name and all else as files."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import BashComplete, CompletionItem, FishComplete, ShellComplete, ZshComplete
from command_tree import commands, options

from balloontrace.cli import cli

pytestmark = pytest.mark.thorough

ROOT = Path(__file__).parents[2]
VARIABLE = "_BALLOONTRACE_COMPLETE"


def complete(*words: str, shell: type[ShellComplete] = BashComplete) -> list[CompletionItem]:
    """What is offered for the last of `words`."""
    return shell(cli, {}, "balloontrace", VARIABLE).get_completions(list(words[:-1]), words[-1])


def test_verbs_come_with_their_help() -> None:
    offered = {item.value: item.help for item in complete("")}
    assert {words[0] for words in commands() if words} <= set(offered)
    assert all(offered.values())
    assert [item.value for item in complete("rec")] == ["record"]


@pytest.mark.parametrize("verb", [words[0] for words in commands() if words])
def test_options_of_every_verb(verb: str) -> None:
    offered = {item.value: item.help for item in complete(verb, "--")}
    expected = {
        name for option in options(commands()[(verb,)]) for name in option.opts if name.startswith("--")
    }
    assert expected <= set(offered)
    assert all(offered[name] for name in expected)


def test_choices() -> None:
    assert [item.value for item in complete("record", "--side", "")] == ["guest", "host", "both", "auto"]


def test_what_is_written_completes_as_a_file() -> None:
    (item,) = complete("record", "-o", "some")
    assert (item.type, item.value) == ("file", "some")


def test_recordings_complete_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("guest.bt", "host.bt", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/first.bt").touch()
    monkeypatch.chdir(tmp_path)
    assert [item.value for item in complete("report", "")] == ["guest.bt", "host.bt"]
    assert [item.value for item in complete("report", "g")] == ["guest.bt"]
    assert [item.value for item in complete("report", "guest.bt", "ho")] == ["host.bt"]
    assert [item.value for item in complete("report", "runs/")] == ["runs/first.bt"]
    assert [item.value for item in complete("report", f"{tmp_path}/ho")] == [f"{tmp_path}/host.bt"]
    # No recording begins so: whatever the shell finds.
    assert [(item.type, item.value) for item in complete("report", "ru")] == [("file", "ru")]
    assert [(item.type, item.value) for item in complete("report", "no/such/")] == [("file", "no/such/")]


@pytest.mark.parametrize(
    ("shell", "kind"), [("bash", BashComplete), ("zsh", ZshComplete), ("fish", FishComplete)]
)
def test_every_shell_gets_its_script(shell: str, kind: type[ShellComplete]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "balloontrace"],
        env={**os.environ, "PYTHONPATH": str(ROOT), VARIABLE: f"{shell}_source"},
        cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{VARIABLE}={shell}_complete" in done.stdout
    assert {item.value for item in complete("d", shell=kind)} == {"doctor"}


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_in_a_real_bash(tmp_path: Path) -> None:
    """The function that bash calls at a TAB, called as bash does."""
    command = tmp_path / "balloontrace"
    command.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -P -m balloontrace "$@"\n')
    command.chmod(0o755)
    script = """
        eval "$(_BALLOONTRACE_COMPLETE=bash_source balloontrace)"
        COMP_WORDS=(balloontrace "$@") COMP_CWORD=$#
        function_of_it=$(complete -p balloontrace | sed 's/.*-F \\([^ ]*\\).*/\\1/')
        compopt() { echo "compopt=$2"; }
        $function_of_it balloontrace
        printf '%s\\n' "${COMPREPLY[@]}"
    """

    def reply(*words: str) -> list[str]:
        done = subprocess.run(
            ["bash", "-c", script, "bash", *words],
            env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
            cwd=ROOT, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.split("\n")[:-1]

    assert reply("rep") == ["report"]
    assert reply("report", "--max") == ["--max-lost"]
    assert reply("report", "examples/stock-i") == ["examples/stock-inflate.bt"]
    assert reply("record", "-o", "ba") == ["compopt=default", ""]
