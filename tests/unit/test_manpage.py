# SPDX-License-Identifier: GPL-2.0-or-later
"""The man page: every command and option as click has them, and troff that nothing complains about."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from command_tree import commands, examples, options

import balloontrace
from balloontrace.errors import ExitCode
from docs.manpage import PAGE, make_page

SECTIONS = (
    *("NAME", "SYNOPSIS", "DESCRIPTION", "COMMANDS", "EXAMPLES", "OVERHEAD", "CAVEATS", "EXIT STATUS"),
    *("ENVIRONMENT", "FILES", "SEE ALSO", "BUGS"),
)
VERBS = {words[0]: command for words, command in commands().items() if words}


@pytest.fixture(scope="module")
def page() -> str:
    """The page as it is kept, without troff's escapes."""
    return PAGE.read_text().replace("\\-", "-").replace("\\fB", "").replace("\\fR", "").replace("\\fI", "")


def test_golden_page_is_what_the_commands_say() -> None:
    """`UPDATE_GOLDEN=1 ... -k golden` writes it anew."""
    if os.environ.get("UPDATE_GOLDEN"):
        PAGE.write_text(make_page())
    assert PAGE.read_text() == make_page()


def test_sections(page: str) -> None:
    assert tuple(re.findall(r"^\.SH (.*)$", page, re.MULTILINE)) == SECTIONS
    assert f'"balloontrace {balloontrace.__version__}"' in page


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_of_every_verb(verb: str, page: str) -> None:
    assert f"balloontrace {verb} [OPTIONS]" in page
    described = page.split(f'.SS "{verb}"\n')[1].split(".SS")[0].split(".SH")[0]
    shown = re.findall(r"^\.TP\n(.*)$", described, re.MULTILINE)
    named = {name for line in shown for name in re.findall(r"(?<![\w-])--?[a-z][\w-]*", line)}
    known = {name for option in options(VERBS[verb]) for name in (*option.opts, *option.secondary_opts)}
    assert named == known


@pytest.mark.parametrize("verb", VERBS)
def test_every_example(verb: str, page: str) -> None:
    for example in examples(VERBS[verb]):
        assert f"\n{example}\n" in page


def test_every_exit_status(page: str) -> None:
    described = page.split(".SH EXIT STATUS")[1].split(".SH")[0]
    assert [int(code) for code in re.findall(r"^\.B (\d+)$", described, re.MULTILINE)] == list(ExitCode)


@pytest.mark.parametrize(
    "command",
    [
        ["groff", "-man", "-ww", "-z", "-Tutf8"],
        ["man", "--warnings=w", "-E", "UTF-8", "-l", "-Tutf8", "-Z"],
    ],
    ids=lambda command: command[0],
)
def test_nothing_complains(command: list[str]) -> None:
    if shutil.which(command[0]) is None:
        pytest.skip(f"no {command[0]} here")
    done = subprocess.run([*command, PAGE], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout
    assert done.stderr == ""


@pytest.mark.skipif(shutil.which("man") is None, reason="no man here")
def test_it_reads_well() -> None:
    done = subprocess.run(
        ["man", "-l", PAGE],
        capture_output=True, text=True, timeout=60, check=True,
        env={**os.environ, "MANWIDTH": "80", "LC_ALL": "C.UTF-8", "MANPAGER": "cat", "PAGER": "cat"},
    )  # fmt: skip
    lines = re.sub(r".\x08", "", done.stdout).splitlines()
    assert max(map(len, lines)) <= 80
    assert any("record --side host --all" in line for line in lines)
    assert Path(PAGE).name == "balloontrace.1"
