# SPDX-License-Identifier: GPL-2.0-or-later
"""Makes docs/balloontrace.1 of balloontrace.1.in and what click knows; `python -m docs.manpage` writes it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import click

import balloontrace
from balloontrace.cli import cli
from balloontrace.errors import ExitCode

TEMPLATE = Path(__file__).with_name("balloontrace.1.in")
PAGE = Path(__file__).with_name("balloontrace.1")

_STATUS = {
    ExitCode.OK: "All went well.",
    ExitCode.FAILURE: "Something failed; one sentence on standard error says what.",
    ExitCode.USAGE: "The command line is invalid, or a recording that it names is missing or unreadable.",
    ExitCode.CANNOT_TRACE: "Machine, kernel or user cannot trace a balloon; `balloontrace doctor` says why.",
    ExitCode.MISSING_PROBE: "A required function cannot be probed in this kernel.",
    ExitCode.DATA_LOST: "More was lost while recording than --max-lost allows, or how much is not known.",
    ExitCode.REGRESSION: "A comparison found what it was told to fail on.",
    ExitCode.INTERRUPTED: "Interrupted; what was complete is kept: rounds of measure, pieces of record, "
    "batches of archive.",
}


def make_page() -> str:
    """The page as troff."""
    parts = {
        "VERSION": balloontrace.__version__,
        "SYNOPSIS": "\n.br\n".join(_synopsis(name, command) for name, command in _verbs()),
        "COMMANDS": "\n".join(line for name, command in _verbs() for line in _describe(name, command)),
        "EXAMPLES": "\n".join(_examples()),
        "STATUS": "\n".join(f".TP\n.B {int(code)}\n{_escape(text)}" for code, text in _STATUS.items()),
    }
    return re.sub(r"@([A-Z]+)@", lambda match: parts[match[1]], TEMPLATE.read_text())


def _verbs() -> Iterator[tuple[str, click.Command]]:
    ctx = click.Context(cli)
    for name in cli.list_commands(ctx):
        command = cli.get_command(ctx, name)
        assert command is not None
        yield name, command


def _escape(text: str) -> str:
    """Text that troff leaves as it is; hyphens stay what a user would type."""
    lines = text.replace("\\", "\\e").replace("-", "\\-").splitlines()
    return "\n".join(f"\\&{line}" if line[:1] in (".", "'") else line for line in lines)


def _synopsis(name: str, command: click.Command) -> str:
    words = [part for part in command.collect_usage_pieces(click.Context(command)) if part != "[OPTIONS]"]
    rest = f" {_escape(' '.join(words))}" if words else ""
    return f"\\fBballoontrace {name}\\fR [\\fIOPTIONS\\fR]{rest}"


def _describe(name: str, command: click.Command) -> Iterator[str]:
    """A subsection: what the command does, and its options."""
    yield f'.SS "{name}"'
    for number, paragraph in enumerate(_paragraphs(command)):
        if number:
            yield ".PP"
        yield _escape(paragraph)
    ctx = click.Context(command)
    for option in command.params:
        record = option.get_help_record(ctx)
        if record is not None:
            yield from (".TP", f"\\fB{_escape(record[0])}\\fR", _escape(record[1]))


def _paragraphs(command: click.Command) -> list[str]:
    """What the help says above its examples, a line a paragraph."""
    text = inspect.cleandoc(command.help or "").replace("\b\n", "")
    found = [paragraph for paragraph in re.split(r"\n\n+", text) if not paragraph.startswith("Example")]
    return [" ".join(paragraph.split()) for paragraph in found]


def _examples() -> Iterator[str]:
    """Every example that a command's help shows, under what the command does."""
    for name, command in _verbs():
        text = inspect.cleandoc(command.help or "").replace("\b\n", "")
        block = re.search(r"^Examples?:\n((?:  .+\n?)+)", text, re.MULTILINE)
        lines = block[1].splitlines() if block else []
        yield ".PP"
        yield f"{name}:"
        yield from (".PP", ".EX", *(_escape(line.strip()) for line in lines), ".EE")


if __name__ == "__main__":
    PAGE.write_text(make_page())
