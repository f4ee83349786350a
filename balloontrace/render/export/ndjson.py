# SPDX-License-Identifier: GPL-2.0-or-later
"""One JSON object a line; null is what was not measured."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping

_CHUNK_LINES = 4096

# json.dumps would make an encoder for each line.
_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


def render_ndjson(objects: Iterable[Mapping[str, object]]) -> Iterator[str]:
    """The lines, some thousand at a time."""
    remaining = iter(objects)
    while chunk := list(itertools.islice(remaining, _CHUNK_LINES)):
        yield "".join(f"{_encode(each)}\n" for each in chunk)
