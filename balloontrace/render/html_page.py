# SPDX-License-Identifier: GPL-2.0-or-later
"""HTML pages from templates: nothing loaded, no script, every value escaped; numbers carry their exact value.

What is shown of a number is rounded; `<data value>` has all of it, in the unit that its title names.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import jinja2
from markupsafe import Markup

import balloontrace
from balloontrace.format.stages import colour_class, drawn_stages
from balloontrace.render.report.machine_section import describe_machine
from balloontrace.render.svg import tag
from balloontrace.units import (
    format_bytes,
    format_count,
    format_duration_ns,
    format_pages_as_bytes,
    format_rate,
    format_share,
    name_of_many,
)

NO_BREAK = "\N{NO-BREAK SPACE}"

UNMEASURED = Markup(
    '<span class="none" title="not measured">{}<span class="aside"> not measured</span></span>'
).format("\N{EN DASH}")

_TEMPLATES = Path(__file__).parent / "templates"


def render_page(template: str, **shown: object) -> str:
    """The page that a template makes of what is to be shown."""
    return _environment().get_template(template).render(**shown)


def unbroken(words: str) -> str:
    """Words that no line ends in: a number stays beside its unit."""
    return words.replace(" ", NO_BREAK)


def data(unit: str, words: Callable[..., str]) -> Callable[[float | None], Markup]:
    """A filter that shows a number as `words` has it, with its exact value; None as not measured."""

    def shown(value: float | None) -> Markup:
        if value is None:
            return UNMEASURED
        exact = format_count(value) if isinstance(value, int) else repr(value)
        return tag("data", unbroken(words(value)), value=repr(value), title=f"{exact} {unit}".rstrip())

    return shown


def format_ratio(value: float) -> str:
    """Three digits, or all of those before the point."""
    return f"{value:.3g}" if abs(value) < 1000 else format_count(round(value))


_count = data("", format_count)


def _things(count: int | None, one: str, many: str | None = None) -> Markup:
    """A filter: how many of something, and its name for one or for many."""
    return Markup("{} {}").format(_count(count), name_of_many(count, one, many))


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        count=_count,
        things=_things,
        pages=data("pages", format_pages_as_bytes),
        size=data("B", format_bytes),
        duration=data("ns", format_duration_ns),
        rate=data("B/s", format_rate),
        share=data("", format_share),
        ratio=data("", format_ratio),
        settings=describe_machine,
        plain_pages=format_pages_as_bytes,
        plain_count=format_count,
        plain_duration=format_duration_ns,
    )
    environment.globals.update(
        stage_class=colour_class,
        drawn_stages=drawn_stages,
        unmeasured=UNMEASURED,
        tool_version=balloontrace.__version__,
    )
    return environment
