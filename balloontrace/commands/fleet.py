# SPDX-License-Identifier: GPL-2.0-or-later
"""`balloontrace fleet`: one question of many recordings."""

from __future__ import annotations

from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from balloontrace.commands.formats import Format, format_option
from balloontrace.console.option_types import output_options
from balloontrace.console.output_file import write_output
from balloontrace.errors import UsageError
from balloontrace.fleet.question import By, Options
from balloontrace.fleet.questions import questions

if TYPE_CHECKING:
    from balloontrace.results.fleet_answer import Answer

_WORDS = """Ask QUESTION of the recordings in DATASET, which `archive` made.

Questions: {questions}. With --sql any query of the tables machines, operations, stages, calls and losses
takes its place.

\b
Examples:
  balloontrace fleet DATASET slowest
  balloontrace fleet DATASET stalls --by host
  balloontrace fleet DATASET changes --before 2026-W47 --after 2026-W48
  balloontrace fleet DATASET stages --engine spark://host:7077
"""
_HELP = _WORDS.format(questions="; ".join(f"{name}: {each.text}" for name, each in questions().items()))


@click.command("fleet", short_help="Ask one question of all recordings in a dataset.", help=_HELP)
@click.argument("dataset")
@click.argument("question", type=click.Choice([*questions()]), required=False)
@click.option("--sql", metavar="QUERY", help="A query in the engine's SQL, in place of a question.")
@click.option("--by", type=click.Choice([*map(str, By)]), help="What rows are grouped by.")
@click.option(
    "--since",
    metavar="DAY",
    type=click.DateTime(["%Y-%m-%d"]),
    help="Only recordings from this day on (UTC).",
)
@click.option(
    "--until", metavar="DAY", type=click.DateTime(["%Y-%m-%d"]), help="Only recordings up to this day."
)
@click.option(
    "--before", metavar="SIDE", help="For changes: a week (2026-W48), a month, a day or a kernel (6.12*)."
)
@click.option("--after", metavar="SIDE", help="For changes: what BEFORE is compared with.")
@click.option(
    "--limit", type=click.IntRange(min=1), default=20, show_default=True, help="At most so many rows."
)
@click.option(
    "--engine",
    metavar="NAME|URL",
    default="duckdb",
    show_default=True,
    help="duckdb, in this process; a Spark master, such as spark://host:7077 or local[4]; sc://host for "
    "Spark Connect; or a URL that ibis connects to.",
)
@format_option("fleet", default="table")
@output_options
def fleet(
    dataset: str,
    question: str | None,
    sql: str | None,
    by: str | None,
    since: datetime | None,
    until: datetime | None,
    before: str | None,
    after: str | None,
    limit: int,
    engine: str,
    form: Format,
    output: Path | None,
    *,
    force: bool,
) -> None:
    """Ask and show."""
    assert form.fleet is not None  # it was offered
    if (question is None) == (sql is None):
        raise UsageError(f"give a question ({', '.join(questions())}) or --sql, and not both")
    options = Options(limit, None if by is None else By(by), before, after)
    days = (_day(since), _day(until))
    found = (
        _ask_sql(dataset, sql, days, engine, options)
        if sql is not None
        else _ask(dataset, question or "", days, engine, options)
    )
    write_output(form.fleet(found), output, force=force, for_people=form.for_people)


_Days = tuple[date | None, date | None]


def _day(moment: datetime | None) -> date | None:
    return None if moment is None else moment.date()


def _ask(dataset: str, name: str, days: _Days, engine: str, options: Options) -> Answer:
    from balloontrace.fleet.ask import answer, ask_dataset

    return ask_dataset(dataset, *days, lambda found: answer(found, name, questions()[name], options, engine))


def _ask_sql(dataset: str, text: str, days: _Days, engine: str, options: Options) -> Answer:
    from balloontrace.fleet.ask import answer_sql, ask_dataset

    if (options.by, options.before, options.after) != (None, None, None):
        raise UsageError("--sql takes no --by, --before or --after: the query says it")
    return ask_dataset(dataset, *days, lambda found: answer_sql(found, text, engine))
