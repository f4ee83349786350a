# SPDX-License-Identifier: GPL-2.0-or-later
"""What every verb has: help by -h and --help, an example that works, no colour but on a terminal."""

from __future__ import annotations

import functools
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from itertools import takewhile
from pathlib import Path

import click
import command_tree
import pytest
from command_tree import Done, commands, examples, options

ROOT = Path(__file__).parents[2]
COMMANDS = commands()
EXAMPLES = [(words, example) for words, command in COMMANDS.items() for example in examples(command)]
CASES = [pytest.param(words, id=" ".join(words) or "balloontrace") for words in COMMANDS]
ESCAPE = "\x1b"
Run = Callable[..., Done]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """`balloontrace WORDS` where the examples are."""
    monkeypatch.chdir(ROOT)
    return functools.partial(command_tree.run, capsys)


def test_there_are_verbs() -> None:
    assert {("doctor",), ("record",), ("report",), ("export",)} <= set(COMMANDS)


@pytest.mark.parametrize("words", CASES)
def test_help_has_an_example_of_the_command_itself(words: tuple[str, ...]) -> None:
    command = COMMANDS[words]
    found = examples(command)
    assert found
    assert any(" ".join(("balloontrace", *words)) in example for example in found)
    for option in options(command):
        assert option.help, f"{words} {option.opts} says nothing of itself"


@pytest.mark.thorough
@pytest.mark.parametrize("words", CASES)
def test_short_and_long_help_are_the_same(words: tuple[str, ...]) -> None:
    # In processes of their own: click remembers of each command how it was first asked for help.
    short, long = (
        subprocess.run(
            [sys.executable, "-m", "balloontrace", *words, option], capture_output=True, text=True, timeout=60
        )
        for option in ("-h", "--help")
    )
    assert (short.returncode, short.stderr) == (0, "")
    assert short.stdout == long.stdout
    assert "Example" in short.stdout
    assert ESCAPE not in short.stdout


@pytest.mark.parametrize(("words", "example"), EXAMPLES, ids=[example for _, example in EXAMPLES])
def test_examples_are_understood(words: tuple[str, ...], example: str) -> None:
    """Parsed by the command they name; those that read the repository's own files are run."""
    typed = shlex.split(re.sub(r"^(ssh \S+ )?(sudo )?", "", example))
    if typed[0] == "eval":
        typed = shlex.split(typed[1].removeprefix("$(").removesuffix(")"))
        typed = [word for word in typed if "=" not in word]
    assert typed.pop(0) == "balloontrace"
    typed = list(takewhile(lambda word: word not in (">", "|"), typed))
    if not typed:
        return
    command = COMMANDS[(typed[0],)]
    assert words in ((), (typed[0],))
    ctx = command.make_context(typed[0], typed[1:])
    assert isinstance(ctx, click.Context)
    for name in (word for word in typed if word.startswith("examples/")):
        assert (ROOT / name).exists()


@pytest.mark.parametrize(
    "example", [example for _, example in EXAMPLES if re.search(r"balloontrace \w+ examples/\S+$", example)]
)
def test_examples_that_read_our_examples_work(example: str, run: Run) -> None:
    done = run(*shlex.split(example)[1:])
    assert done.status == 0, done.stderr
    assert done.stdout


def test_the_versions(run: Run) -> None:
    done = run("--version")
    assert (done.status, done.stderr) == (0, "")
    own, bcc, platform = done.stdout.splitlines()
    assert re.fullmatch(r"balloontrace \d+\.\d+\S*", own)
    assert re.fullmatch(r"bcc (\d+\.\d+\S*|is not installed for this Python|of an unknown version)", bcc)
    assert platform.startswith(f"Python {sys.version_info.major}.{sys.version_info.minor}.")


def test_verbose_says_what_was_read(run: Run) -> None:
    quiet = run("report", "examples/stock-inflate.bt")
    verbose = run("report", "-v", "examples/stock-inflate.bt")
    assert (quiet.stderr, verbose.stdout) == ("", quiet.stdout)
    lines = verbose.stderr.splitlines()
    assert all(line.startswith("balloontrace: examples/stock-inflate.bt: ") for line in lines)
    assert "guest, format 1." in lines[0]
    assert "pieces of spans; whole" in lines[1]


@pytest.mark.parametrize("words", [["doctor"], ["doctor", "--side", "host"]])
def test_verbose_says_where_probes_go(words: list[str], run: Run) -> None:
    quiet, verbose = run(*words), run(*words, "-v")
    assert verbose.stdout == quiet.stdout
    said = verbose.stderr.removesuffix(quiet.stderr).splitlines()
    assert any(re.match(r"balloontrace: (update_balloon_size_func|madvise): ", line) for line in said)


@pytest.mark.parametrize("verb", ["doctor", "record", "report"])
def test_verbose_is_an_option_of_those_that_have_something_to_say(verb: str) -> None:
    assert any("-v" in option.opts for option in options(COMMANDS[(verb,)]))
