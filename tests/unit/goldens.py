# SPDX-License-Identifier: GPL-2.0-or-later
"""Outputs kept in tests/data, and what of an output is kept: as much as somebody reads."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

DATA = Path(__file__).parents[1] / "data"
_WIDTH = 110
# Numbers with many digits alone: processors differ in the last digit of a long sum.
_NUMBER = re.compile(r"(-?\d+\.\d{10,}(?:e-?\d+)?)")


def assert_golden(name: str, text: str) -> None:
    """UPDATE_GOLDEN=1 writes the file anew; look at the difference before committing it."""
    path = DATA / name
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text)
    made, kept = (_NUMBER.split(each) for each in (text, path.read_text()))
    assert made[::2] == kept[::2]
    assert [float(each) for each in made[1::2]] == pytest.approx(
        [float(each) for each in kept[1::2]], rel=1e-9
    )


def shortened_json(text: str) -> str:
    """Of objects in a list the first alone. Schemas hold the fields of all, CSV their numbers."""
    value = json.loads(text)
    assert text == json.dumps(value, indent=1) + "\n"
    return "\n".join(_lines(_first_of_each(value))) + "\n"


def shortened_csv(text: str) -> str:
    """Of a comparison's replicates the first of each side alone; what is summed up of them is all there."""
    header, *rows = text.splitlines()
    named = list(csv.DictReader(io.StringIO(text)))
    first: dict[str, str] = {}
    kept = [
        line
        for line, row in zip(rows, named, strict=True)
        if row["level"] != "replicate" or first.setdefault(row["side"], row["recording"]) == row["recording"]
    ]
    return "\n".join([header, *kept]) + "\n"


def _first_of_each(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _first_of_each(each) for name, each in value.items()}
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return [_first_of_each(value[0])]
    return value


def _lines(value: Any, head: str = "") -> list[str]:
    """JSON with as many short values on a line as there is room for."""
    flat = head + json.dumps(value)
    if len(flat) <= _WIDTH or not isinstance(value, dict | list):
        return [flat]
    named = (
        [(f"{json.dumps(name)}: ", each) for name, each in value.items()]
        if isinstance(value, dict)
        else [("", each) for each in value]
    )
    lines = [head + ("{" if isinstance(value, dict) else "[")]
    packed = False
    for number, (name, each) in enumerate(named):
        inner = _lines(each, name)
        inner[-1] += "," if number < len(named) - 1 else ""
        if packed and len(inner) == 1 and len(lines[-1]) + 1 + len(inner[0]) <= _WIDTH:
            lines[-1] += f" {inner[0]}"
        else:
            lines += [f" {line}" for line in inner]
        packed = len(inner) == 1
    return [*lines, "}" if isinstance(value, dict) else "]"]
