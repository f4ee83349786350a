# SPDX-License-Identifier: GPL-2.0-or-later
"""Strings of a recording can do nothing to a terminal or a spreadsheet, whatever is made of them."""

from __future__ import annotations

import csv
import io
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import synthetic
from flows import Flow, Times
from mutations import join, split
from synthetic_host import batches, host_stream

from balloontrace import cli
from balloontrace.commands.formats import offered
from balloontrace.untrusted import made_printable, printable, spreadsheet_text

# An escape sequence, one of 8 bits, a bidirectional override, ends of lines, and what is no character.
CONTROL = "\x1b]0;x\x07\x1b[2J\x9b31m\u202e\u2066\r\n\t\0\u2028\ud800"
FORMULAS = ("=1+1", "+1", "-1+1", "@SUM(1)", "\t=1", "\r=1", " =1", "\uff1d1")


def spoil(value: Any, text: str) -> Any:
    """The same JSON with `text` before every string in it, and before every key that is data."""
    if isinstance(value, str):
        return text + value
    if isinstance(value, list):
        return [spoil(each, text) for each in value]
    if isinstance(value, dict):
        return {key: spoil(each, text) for key, each in value.items()}
    return value


def spoiled(data: bytes, text: str) -> bytes:
    """A recording all of whose strings begin with `text`; its keys that name things too."""
    pieces = split(data)
    for index, (kind, sequence, payload) in enumerate(pieces):
        if kind in (b"META", b"ENDR"):
            described = json.loads(payload)
            layouts = {key: each for key, each in described.items() if key.endswith("_layout")}
            described = {**spoil(described, text), **layouts}
            for key in ("losses", "vmstat", "boundaries"):
                if key in described:
                    described[key] = {text + name: each for name, each in described[key].items()}
            if described.get("side", "").endswith("host"):
                described["side"] = "host"
            described["memory"] = {"shared_files": [{"name": text, "allocated_bytes": 1}]}
            pieces[index] = kind, sequence, json.dumps(described).encode()
    return join(pieces)


@pytest.fixture(scope="module", params=(CONTROL + FORMULAS[0], FORMULAS[0]), ids=("control", "formula"))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recordings of both sides with spoiled strings."""
    folder, text = tmp_path_factory.mktemp("spoiled"), request.param
    flow = Flow(times=Times(send=1_500_000))
    flow.resize(100 * 256)
    flow.now += 3_000_000_000
    flow.resize(0)
    ended = {"ended": {"monotonic_ns": flow.now + 2_000_000_000}}
    for name in ("one", "two"):
        (folder / f"{name}-guest.bt").write_bytes(spoiled(synthetic.recording_bytes(flow, end=ended), text))
    (folder / "host.bt").write_bytes(spoiled(host_stream(batches(flow)).getvalue(), text))
    return folder


def run(*words: object) -> int:
    return cli._run([str(word) for word in words])


def assert_harmless(text: str) -> None:
    # Pages have spaces of their own that no line is broken at.
    assert not {char for char in set(text) - {"\n", "\xa0"} if not char.isprintable()}


REPORTS, EXPORTS, COMPARISONS = (
    tuple((verb, form) for form in offered(verb)) for verb in ("report", "export", "compare")
)


@pytest.mark.thorough
@pytest.mark.parametrize("command", [*REPORTS, *EXPORTS, *COMPARISONS], ids="-".join)
def test_no_string_of_a_recording_is_a_command(
    command: tuple[str, str], folder: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    verb, form = command
    guest, host = folder / "one-guest.bt", folder / "host.bt"
    if verb == "compare":
        given: list[tuple[Path, ...]] = [(guest, folder / "two-guest.bt")]
    else:
        given = (
            [(guest,), (host,)] if (verb, form) == ("export", "csv") else [(guest,), (host,), (guest, host)]
        )
    for paths in given:
        verbose = ["-v"] if verb == "report" else []
        assert run(verb, *paths, "--format", form, *verbose) == 0
        out, err = (text.decode() for text in capfdbinary.readouterr())
        assert_harmless(out)
        assert_harmless(err)
        if form == "csv":
            for cell in itertools.chain.from_iterable(csv.reader(io.StringIO(out))):
                assert is_number(cell) or spreadsheet_text(cell) == cell, cell
        elif form in ("json", "perfetto"):
            json.loads(out)
        elif form == "ndjson":
            assert all(json.loads(line) for line in out.splitlines())


def is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def test_files_of_an_export_are_harmless_too(folder: Path, tmp_path: Path) -> None:
    assert run("export", folder / "one-guest.bt", folder / "host.bt", "-o", tmp_path / "tables") == 0
    for path in (tmp_path / "tables").iterdir():
        assert_harmless(path.read_text())
        if path.suffix == ".json":
            assert_harmless("".join(strings(json.loads(path.read_text()))))


def strings(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [*value, *itertools.chain.from_iterable(map(strings, value.values()))]
    if isinstance(value, list):
        return list(itertools.chain.from_iterable(map(strings, value)))
    return [value] if isinstance(value, str) else []


@pytest.mark.parametrize("verb", ["report", "export", "compare"])
def test_errors_name_files_harmlessly(
    verb: str, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    bad = tmp_path / "\x1b[2J\u202e.bt"
    others = [tmp_path / "b"] if verb == "compare" else []
    for content in (None, b"", b"no recording at all, but long enough to be looked at"):
        if content is not None:
            bad.write_bytes(content)
        assert run(verb, bad, *others) in (1, 2)
        assert run(verb, f"--{bad.name}", bad) == 2
        out, err = (text.decode() for text in capfdbinary.readouterr())
        assert err
        assert_harmless(out + err)


def test_text_that_is_harmless_stays_as_it_is() -> None:
    for text in ("tell_host", "Größe 1 GiB", "虚拟机", "a=b", "x-1", "", "it's"):
        assert printable(text) == text == spreadsheet_text(text)
    assert not any(char in printable(CONTROL) for char in CONTROL if not char.isprintable())
    assert all(spreadsheet_text(text) == f"'{text}" for text in FORMULAS)


def test_json_is_made_printable_in_keys_lists_and_depth() -> None:
    deep: Any = "end"
    for _ in range(500):
        deep = [deep]
    value = made_printable({"a\x1b": ["\x1b", {"b\n": "\r"}, 1, None], "deep": deep})
    assert value.pop("a?") == ["?", {"b?": "?"}, 1, None]
    assert len(json.dumps(value, indent=1)) < 20_000
    assert "end" not in json.dumps(value)
