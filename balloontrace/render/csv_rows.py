# SPDX-License-Identifier: GPL-2.0-or-later
"""Rows as CSV: units in the header, integers in ns, empty = not measured."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Iterable, Iterator, Sequence

from balloontrace.untrusted import spreadsheet_text

_CHUNK_ROWS = 1 << 14


def render_rows(columns: Sequence[str], rows: Iterable[Sequence[object]], *, header: bool) -> str:
    """Rows as CSV; None becomes an empty field, and text is no formula."""
    safe = ([spreadsheet_text(cell) if isinstance(cell, str) else cell for cell in row] for row in rows)
    return _as_csv(columns, safe, header=header)


def _as_csv(columns: Sequence[str], rows: Iterable[Sequence[object]], *, header: bool) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if header:
        writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue()


def render_chunks(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    """Many rows of single events, whose only words are this program's own: some thousand at a time."""
    rows = iter(rows)
    yield _as_csv(columns, (), header=True)
    while chunk := list(itertools.islice(rows, _CHUNK_ROWS)):
        yield _as_csv(columns, chunk, header=False)
