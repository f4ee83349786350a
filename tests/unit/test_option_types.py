# SPDX-License-Identifier: GPL-2.0-or-later
"""Sizes and durations as people write them, and the messages for anything else."""

from __future__ import annotations

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from balloontrace.console.option_types import DURATION, SIZE, Duration, parse_duration_s, parse_size_bytes


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("7G", 7 << 30),
        ("512M", 512 << 20),
        ("997MiB", 997 << 20),
        ("4k", 4096),
        ("1.5G", 3 << 29),
        ("1TB", 1 << 40),
        ("4096", 4096),
        ("17 B", 17),
        (" 2M ", 2 << 20),
    ],
)
def test_sizes(text: str, size_bytes: int) -> None:
    assert parse_size_bytes(text) == size_bytes
    assert SIZE.convert(text, None, None) == size_bytes


@pytest.mark.parametrize(
    "text", ["", "M", "7X", "-1M", "0", "0G", "1.5", "0.1K", "7 G B", "7iB", "1e3", "nan", "7Gs", "٣M x"]
)
def test_no_sizes(text: str) -> None:
    assert parse_size_bytes(text) is None
    with pytest.raises(click.BadParameter, match="is not a size; write for example 512M"):
        SIZE.convert(text, None, None)


@pytest.mark.parametrize(
    ("text", "duration_s"),
    [
        ("500ms", 0.5),
        ("10s", 10.0),
        ("2m", 120.0),
        ("2min", 120.0),
        ("1.5", 1.5),
        ("60", 60.0),
        ("250us", 0.00025),
        ("1.5h", 5400.0),
        (" 3 s ", 3.0),
    ],
)
def test_durations(text: str, duration_s: float) -> None:
    assert parse_duration_s(text) == pytest.approx(duration_s, rel=1e-12)
    assert DURATION.convert(text, None, None) == parse_duration_s(text)


@pytest.mark.parametrize(
    "text", ["", "s", "0", "0ms", "-1", "nan", "inf", "1e9", "10 parsecs", "1M", "5S", "9" * 400]
)
def test_no_durations(text: str) -> None:
    assert parse_duration_s(text) is None
    with pytest.raises(click.BadParameter, match="is not a duration; write for example 10s"):
        DURATION.convert(text, None, None)


def test_a_least_duration() -> None:
    least = Duration(at_least_s=0.1)
    assert least.convert("100ms", None, None) == 0.1
    with pytest.raises(click.BadParameter, match="99ms is too short; the least is 100ms"):
        least.convert("99ms", None, None)


@given(st.text(max_size=20))
def test_any_text_is_a_value_or_nothing(text: str) -> None:
    size_bytes, duration_s = parse_size_bytes(text), parse_duration_s(text)
    assert size_bytes is None or size_bytes >= 1
    assert duration_s is None or duration_s > 0


@given(st.integers(1, 1 << 20), st.sampled_from([("K", 10), ("M", 20), ("G", 30), ("T", 40)]))
def test_every_whole_size_is_exact(count: int, unit: tuple[str, int]) -> None:
    assert parse_size_bytes(f"{count}{unit[0]}") == count << unit[1]
