# SPDX-License-Identifier: GPL-2.0-or-later
"""The commands as click has them, which tests of help, completion and the man page walk through, and run."""

from __future__ import annotations

import inspect
import re
from typing import NamedTuple

import click
import pytest

from balloontrace.cli import cli, main


def commands() -> dict[tuple[str, ...], click.Command]:
    """Every command by its words below `balloontrace`, the group itself by none."""
    found: dict[tuple[str, ...], click.Command] = {}
    pending: list[tuple[tuple[str, ...], click.Command]] = [((), cli)]
    while pending:
        words, command = pending.pop()
        found[words] = command
        if isinstance(command, click.Group):
            ctx = click.Context(command)
            for name in command.list_commands(ctx):
                inner = command.get_command(ctx, name)
                assert inner is not None
                pending.append(((*words, name), inner))
    return dict(sorted(found.items()))


def options(command: click.Command) -> list[click.Option]:
    """What a user may give it, `--help` apart."""
    return [each for each in command.params if isinstance(each, click.Option) and not each.hidden]


def examples(command: click.Command) -> list[str]:
    """The lines of the command's Example block, as they are typed."""
    block = re.search(r"^Examples?:\n((?:  .+\n?)+)", _help(command), re.MULTILINE)
    return [line.strip() for line in block[1].splitlines()] if block else []


class Done(NamedTuple):
    """How a command line ended, and what it wrote."""

    status: int | str | None
    stdout: str
    stderr: str


def run(capsys: pytest.CaptureFixture[str], *words: object) -> Done:
    """`balloontrace WORDS` in this process: for all that does not depend on having one of its own."""
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    return Done(ended.value.code, *capsys.readouterr())


def _help(command: click.Command) -> str:
    return inspect.cleandoc(command.help or "")
