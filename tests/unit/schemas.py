# SPDX-License-Identifier: GPL-2.0-or-later
"""The JSON schemas of docs/, and whether something is what they say."""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match
from jsonschema.protocols import Validator

DOCS = Path(__file__).parents[2] / "docs"
Schema = dict[str, Any]


def load(name: str) -> Schema:
    schema: Schema = json.loads((DOCS / f"{name}.schema.json").read_text())
    return schema


def objects(schema: Any) -> Iterator[Schema]:
    """Every description of an object with fields."""
    if isinstance(schema, dict):
        if "properties" in schema:
            yield schema
        for value in schema.values():
            yield from objects(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from objects(value)


def closed(schema: Schema) -> Schema:
    """The same, but a field it does not know is an error; published it is not, as fields may be added."""
    strict = copy.deepcopy(schema)
    for each in objects(strict):
        each["additionalProperties"] = False
    return strict


@functools.cache
def validator(name: str) -> Draft202012Validator:
    return Draft202012Validator(closed(load(name)))  # no registry: each file is whole by itself


def hold(validator: Validator, described: Any) -> None:
    """ValidationError with what is wrong deepest down, not with all of what it is wrong in."""
    error = best_match(validator.iter_errors(described))
    while error is not None and error.context:
        # Of "this or null" it is not null.
        error = max(error.context, key=lambda each: len(each.absolute_path))
    if error is not None:
        raise error
