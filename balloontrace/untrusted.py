# SPDX-License-Identifier: GPL-2.0-or-later
"""Text from strangers made harmless: for a terminal, and for a spreadsheet.

A recording's strings pass through `made_printable` once, when its JSON is read; names of files and what else
a message quotes pass through `printable` where it is said.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

_MOST_NESTED = 64

# What spreadsheets take for a formula, also behind spaces and in full width (OWASP, "CSV Injection").
_FORMULA = re.compile(r"\s*[=+\-@\uff1d\uff0b\uff0d\uff20]")


def printable(text: str) -> str:
    """The same text, but each control character, bidirectional override or the like becomes `?`."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else "?" for char in text)


def printable_lines(text: str) -> str:
    """The same for text of several lines."""
    return "\n".join(map(printable, text.split("\n")))


def made_printable(value: dict[str, Any]) -> dict[str, Any]:
    """An object of JSON, changed in place: every key and text in it is printable.

    What is nested deeper than any honest recording has it becomes None: it could not be written again.
    """
    waiting: list[tuple[Any, int]] = [(value, 0)]
    while waiting:
        item, depth = waiting.pop()
        if isinstance(item, dict):
            if not all(map(str.isprintable, item)):
                pairs = [(printable(key), each) for key, each in item.items()]
                item.clear()
                item.update(pairs)
            places: Iterable[Any] = item.items()
        else:
            places = enumerate(item)
        for key, each in places:
            if isinstance(each, str):
                if not each.isprintable():
                    item[key] = printable(each)
            elif isinstance(each, dict | list):
                if depth < _MOST_NESTED:
                    waiting.append((each, depth + 1))
                else:
                    item[key] = None
    return value


def spreadsheet_text(text: str) -> str:
    """Text for a cell: behind an apostrophe if a spreadsheet would take it for a formula."""
    return f"'{text}" if _FORMULA.match(text) else text
