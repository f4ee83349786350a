# SPDX-License-Identifier: GPL-2.0-or-later
"""What is said on standard error while something runs: always, or with `-v` only."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, TypeVar

import click

from balloontrace.untrusted import printable

_VERBOSE = "balloontrace.verbose"
Command = TypeVar("Command", bound=Callable[..., Any])


def verbose_option(command: Command) -> Command:
    """Give a command `-v`, which has `note` say what it is given."""
    decorated: Command = click.option(
        "-v",
        "--verbose",
        is_flag=True,
        expose_value=False,
        is_eager=True,
        callback=_remember,
        help="Say on standard error what is used, where and why.",
    )(command)
    return decorated


def _remember(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
    ctx.meta[_VERBOSE] = value


def say(text: str) -> None:
    """Write `text` as it is; that nobody listens any more ends nothing."""
    with suppress(OSError):
        click.echo(text, err=True, nl=False)


def warn(warnings: Iterable[str]) -> None:
    """Say each of these that speak against a result."""
    for warning in warnings:
        say(f"balloontrace: warning: {printable(warning)}\n")


def note(find_lines: Callable[[], Iterable[str]]) -> None:
    """With `-v`, write each of the lines that `find_lines` gives; without it, do not ask for them."""
    ctx = click.get_current_context(silent=True)
    if ctx is not None and ctx.meta.get(_VERBOSE):
        for line in find_lines():
            say(f"balloontrace: {printable(line)}\n")
