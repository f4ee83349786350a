# SPDX-License-Identifier: GPL-2.0-or-later
"""HTML pages from templates: nothing loaded, no script, every value escaped; numbers carry their exact value.

What is shown of a number is rounded; `<data value>` has all of it, in the unit that its title names.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import jinja2

import balloontrace
from balloontrace.format.stages import drawn_stages
from balloontrace.render import numbers
from balloontrace.render.blocks import Number
from balloontrace.render.blocks_html import UNMEASURED, html_of, html_table, html_words
from balloontrace.render.report.machine_section import describe_machine

_TEMPLATES = Path(__file__).parent / "templates"


def render_page(template: str, **shown: object) -> str:
    """The page that a template makes of what is to be shown."""
    return _environment().get_template(template).render(**shown)


def _finish(value: object) -> object:
    """Numbers and sentences as blocks have them."""
    return html_words(value) if isinstance(value, Number | tuple) else value


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_finish,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        count=numbers.count,
        things=numbers.things,
        pages=numbers.pages,
        size=numbers.size,
        duration=numbers.duration,
        rate=numbers.rate,
        share=numbers.share,
        ratio=numbers.ratio,
        settings=describe_machine,
        blocks=html_of,
        table=html_table,
    )
    environment.globals.update(
        drawn_stages=drawn_stages, unmeasured=UNMEASURED, tool_version=balloontrace.__version__
    )
    return environment
