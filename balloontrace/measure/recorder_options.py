# SPDX-License-Identifier: GPL-2.0-or-later
"""Which options of `record` the recorders of both sides are given: those of each side, and those of both."""

from __future__ import annotations

import click
from click.core import ParameterSource

from balloontrace.console.option_types import split_words
from balloontrace.errors import UsageError
from balloontrace.format.vocabulary import Side

_OF_BOTH = frozenset({"missing_probes", "attach", "engine", "ring_bytes"})
_OF = {
    Side.GUEST: _OF_BOTH | {"capture", "layout", "split_allocation"},
    Side.HOST: _OF_BOTH | {"count_freed", "sample", "time_faults", "count_discards"},
}


def given_options(ctx: click.Context, side: Side) -> list[str]:
    """Those of `record --side both` that are for this side, as words for its recorder."""
    words: list[str] = []
    for option in ctx.command.params:
        name = option.name or ""
        if name in _OF[side] and ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            words += [option.opts[-1], *([] if ctx.params[name] is True else [str(ctx.params[name])])]
    return words


def parse_options(text: str, option: str, side: Side, record: click.Command) -> list[str]:
    """The words that `option` of `measure` has for a recorder of this side. UsageError where it may not."""
    words = split_words(text, option)
    try:
        ctx = record.make_context("record", list(words), help_option_names=[])
    except click.ClickException as error:
        raise UsageError(f"{option}: {error.format_message()}") from error
    for each in record.params:
        given = ctx.get_parameter_source(each.name or "") is ParameterSource.COMMANDLINE
        # To the click of Debian 13 a command of no words was given, too.
        if given and each.name not in _OF[side] and ctx.params.get(each.name or "") != ():
            raise UsageError(f"{option}: {each.opts[-1]} is not for the {side}'s recorder of a measurement")
    return words
