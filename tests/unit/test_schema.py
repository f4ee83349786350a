# SPDX-License-Identifier: GPL-2.0-or-later
"""What is written as JSON is described in docs/: every field, with its unit, and no field that is not."""

from __future__ import annotations

import copy
import csv
import dataclasses
import enum
import io
import json
import os
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import synthetic
from click.testing import CliRunner
from collection import NAMES, examined
from flows import Flow, Times
from jsonschema import Draft202012Validator, ValidationError
from schemas import DOCS, Schema, closed, hold, load, objects, validator

from balloontrace.commands.compare import compare
from balloontrace.export.event_rows import BATCH_COLUMNS, PAYLOAD_COLUMNS, SPAN_COLUMNS, described_events
from balloontrace.render.export.ndjson import render_ndjson
from balloontrace.render.json import render_json
from balloontrace.results import comparison, measurement, recorder, report

SCHEMAS = ("report", "export", "compare", "measure")
# A field of one of these names says its unit in its description.
UNITS = {"_ns": "nanoseconds", "_bytes": "bytes", "_pages": "4 KiB", "_pfn": "4 KiB", "_ppm": "per million"}


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_schema_is_one(name: str) -> None:
    schema = load(name)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    Draft202012Validator.check_schema(schema)
    assert not any("additionalProperties" in each for each in objects(schema))


def references(schema: Any) -> Iterator[str]:
    """Every `$ref`."""
    if isinstance(schema, dict):
        yield from ([schema["$ref"]] if "$ref" in schema else [])
        for value in schema.values():
            yield from references(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from references(value)


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_schema_needs_no_other_file(name: str) -> None:
    schema = load(name)
    assert schema["$id"] == f"urn:balloontrace:schema:{name}"
    known = {f"#/$defs/{each}" for each in schema["$defs"]}
    assert set(references(schema)) <= known


def test_golden_what_export_shares_with_the_report() -> None:
    """Its copy of what both describe is the report's; UPDATE_GOLDEN=1 copies it anew."""
    schema, shared = load("export"), load("report")["$defs"]
    merged = {**schema, "$defs": {name: shared.get(name, each) for name, each in schema["$defs"].items()}}
    if os.environ.get("UPDATE_GOLDEN"):
        text = json.dumps(merged, indent=1, ensure_ascii=False) + "\n"
        (DOCS / "export.schema.json").write_text(text)
    assert load("export") == merged
    assert "Header" in schema["$defs"]


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_field_is_described_with_its_unit(name: str) -> None:
    for each in objects(load(name)):
        assert sorted(each["required"]) == sorted(each["properties"])
        assert each["description"].endswith(".")
        for field, described in each["properties"].items():
            words = described["description"]
            assert words.endswith("."), field
            for ending, unit in UNITS.items():
                assert not field.endswith(ending) or unit in words, (field, words)
            if field == "pages":
                assert "4 KiB" in words, words
            if "null" in described_types(described):
                assert "null" in words + each["description"], (field, words)


@pytest.mark.parametrize("name", NAMES)
def test_reports_are_what_the_schema_says(name: str) -> None:
    hold(validator("report"), json.loads(render_json(examined(name).report)))


@pytest.mark.thorough
@pytest.mark.parametrize("name", NAMES)
def test_exported_lines_are_what_the_schema_says(name: str) -> None:
    # One validator for each type: `oneOf` would try all for each line.
    whole, schema = validator("export"), closed(load("export"))
    of_type = {kind: whole.evolve(schema={**schema, "oneOf": [{"$ref": f"#/$defs/{kind}"}]})
               for kind in ("recording", "span", "payload", "batch", "end")}  # fmt: skip
    lines = "".join(render_ndjson(described_events(examined(name)))).splitlines()
    # Of thousands of like lines some say as much as all.
    for line in [*lines[:300], *lines[300:-1:101], lines[-1]]:
        described = json.loads(line)
        hold(of_type[described["type"]], described)


def compared(*words: str) -> Any:
    done = CliRunner().invoke(compare, [*words, "--format", "json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("stock-inflate.bt", "bitmap-inflate.bt"),
        ("bitmap-deflate.bt", "bitmap-deflate.bt"),
        ("nested-qemu-guest.bt,nested-qemu-host.bt", "nested-qemu-guest.bt,nested-qemu-host.bt"),
    ],
)
def test_comparisons_are_what_the_schema_says(before: str, after: str) -> None:
    folder = DOCS.parent / "examples"
    given = (",".join(str(folder / name) for name in side.split(",")) for side in (before, after))
    described = compared(*given)
    assert described["groups"]
    hold(validator("compare"), described)


def test_comparisons_of_folders_are_what_the_schema_says(tmp_path: Path) -> None:
    for folder, send in (("before", 300_000), ("after", 500_000)):
        (tmp_path / folder).mkdir()
        for run in range(5):
            flow = Flow(times=Times(send=send + 1_009 * run))
            flow.resize(4096)
            flow.resize(101, max_items=2 if run == 3 else None)
            (tmp_path / folder / f"{run}.bt").write_bytes(synthetic.recording_bytes(flow, ended=run != 2))
    described = compared(str(tmp_path / "before"), str(tmp_path / "after"))
    verdicts = {row["verdict"] for group in described["groups"] for row in group["times"]}
    assert verdicts == {"slower", "same", None}
    assert described["left_out"]
    hold(validator("compare"), described)


def test_a_new_field_must_be_described() -> None:
    described = json.loads(render_json(examined("both sides").report))
    for place in (described, described["operations"][0], described["operations"][0]["stages"][0]):
        place["new_ns"] = 1
        with pytest.raises(ValidationError, match="'new_ns' was unexpected"):
            hold(validator("report"), described)
        del place["new_ns"]
    hold(validator("report"), described)
    line = next(each for each in described_events(examined("typical")) if each["type"] == "span")
    with pytest.raises(ValidationError):
        validator("export").validate({**line, "new_ns": 1})


def test_what_is_left_out_or_of_another_type_is_found() -> None:
    described = json.loads(render_json(examined("typical").report))
    for changes in (
        {"wall_ns": 1.5},
        {"wall_ns": None},
        {"kind": "grow"},
        {"pages": -1},
        {"outcome": "done"},
    ):
        spoilt = copy.deepcopy(described)
        spoilt["operations"][0].update(changes)
        with pytest.raises(ValidationError):
            hold(validator("report"), spoilt)
    del described["operations"][0]["sends"]
    with pytest.raises(ValidationError, match="'sends' is a required property"):
        hold(validator("report"), described)


# ---- the schema beside results/: also fields that no recording here fills ----


def dataclasses_of(start: type) -> dict[str, type]:
    """A dataclass and all that its fields are made of, by name."""
    found: dict[str, type] = {}
    pending = [start]
    while pending:
        each = pending.pop()
        if dataclasses.is_dataclass(each):
            if each.__name__ not in found:
                found[each.__name__] = each
                pending += typing.get_type_hints(each).values()
        else:
            pending += [argument for argument in typing.get_args(each) if argument is not Ellipsis]
    return found


def json_types(annotation: Any) -> set[str]:
    """What a field of this type is in JSON."""
    origin = typing.get_origin(annotation)
    if origin in (types.UnionType, typing.Union):
        return {name for argument in typing.get_args(annotation) for name in json_types(argument)}
    if annotation is type(None):
        return {"null"}
    if origin is tuple:
        return {"array"}
    if origin is Mapping or dataclasses.is_dataclass(annotation):
        return {"object"}
    if issubclass(annotation, enum.StrEnum):
        return {"string"}
    return {{int: "integer", float: "number", str: "string", bool: "boolean"}[annotation]}


def described_types(described: Schema) -> set[str]:
    names = {int: "integer", str: "string", type(None): "null"}
    if "$ref" in described:
        return {"object"}
    if "anyOf" in described:
        return {name for each in described["anyOf"] for name in described_types(each)}
    if "const" in described:
        return {names[type(described["const"])]}
    if "enum" in described:
        return {names[type(value)] for value in described["enum"]}
    return {described["type"]} if isinstance(described["type"], str) else set(described["type"])


# What is written as it is in these classes, by the schema that describes it.
ROOTS: Mapping[str, type] = {
    "report": report.Report,
    "compare": comparison.Comparison,
    "measure": measurement.Measurement,
}
CLASSES = [(name, each) for name, root in ROOTS.items() for each in dataclasses_of(root).values()]


@pytest.mark.parametrize(
    ("name", "described"), CLASSES, ids=[f"{name}-{each.__name__}" for name, each in CLASSES]
)
def test_the_schema_has_the_fields_of_the_dataclass(name: str, described: type) -> None:
    schema = load(name)
    found = schema if described is ROOTS[name] else schema["$defs"][described.__name__]
    # The one field that is not of the dataclass.
    added = {"events_lost": int | None} if described is recorder.Loss else {}
    hints = {**typing.get_type_hints(described), **added}
    assert {field: described_types(each) for field, each in found["properties"].items()} == {
        field: json_types(annotation) for field, annotation in hints.items()
    }


@pytest.mark.parametrize("name", ROOTS)
def test_nothing_is_described_that_is_not_there(name: str) -> None:
    assert set(load(name)["$defs"]) == set(dataclasses_of(ROOTS[name])) - {ROOTS[name].__name__}


def test_the_columns_of_csv_are_the_fields_of_ndjson() -> None:
    described = load("export")["$defs"]
    for kind, columns in (("span", SPAN_COLUMNS), ("payload", PAYLOAD_COLUMNS), ("batch", BATCH_COLUMNS)):
        assert list(described[kind]["properties"]) == ["type", "index", *columns]
        (header,) = csv.reader(io.StringIO(",".join(columns)))
        assert header == list(columns)
