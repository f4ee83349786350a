# SPDX-License-Identifier: GPL-2.0-or-later
"""Bars of stages as a picture, of one report or of both sides of a comparison."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from balloontrace.format.stages import OTHER, colour_class
from balloontrace.render.svg import Drawing
from balloontrace.results.operation import StageRow
from balloontrace.units import (
    format_duration_ns,
    format_share,
)

_LABELLED_SHARE = 0.11
_BAR_PX = 30
LABEL_PX = 18


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a bar."""

    stage: str
    name: str
    total_ns: int


@dataclass(frozen=True, slots=True)
class Bar:
    """The stages of an operation, of many, or of one side of a comparison."""

    label: str
    wall_ns: int
    segments: tuple[Segment, ...]


def segments_of(rows: Sequence[StageRow]) -> tuple[Segment, ...]:
    """The stages that add up to the wall time, `b` in its parts as far as those are known."""
    segments: list[Segment] = []
    for row in rows:
        if row.part_of is not None or row.total_ns is None:
            continue
        parts = [part for part in rows if part.part_of == row.stage and colour_class(part.stage)]
        known = [Segment(part.stage, part.name, part.total_ns) for part in parts if part.total_ns is not None]
        rest_ns = row.total_ns - sum(part.total_ns for part in known)
        if rest_ns > 0 or not known:
            known.append(Segment(row.stage, row.name, rest_ns))
        segments += known
    return tuple(segment for segment in segments if segment.total_ns > 0)


def draw_bars(ident: str, title: str, bars: Sequence[Bar]) -> Markup:
    """Bars below each other, all in the scale of the longest."""
    scale_ns = max((bar.wall_ns for bar in bars), default=0) or 1
    labelled = any(bar.label for bar in bars)
    pitch_px = _BAR_PX + (LABEL_PX + 6 if labelled else 0)
    drawing = Drawing(pitch_px * len(bars) - (6 if labelled else 0))
    for index, bar in enumerate(bars):
        top_px = index * pitch_px
        if labelled:
            drawing.text("label", 0, top_px + 13, bar.label)
            top_px += LABEL_PX
        _draw_bar(drawing, bar, top_px, scale_ns)
    return drawing.markup(ident, title, "; ".join(_bar_in_words(bar) for bar in bars))


def _draw_bar(drawing: Drawing, bar: Bar, top_px: float, scale_ns: int) -> None:
    x = 0.0
    for segment in bar.segments:
        width = segment.total_ns / scale_ns
        share = segment.total_ns / bar.wall_ns if bar.wall_ns else 0.0
        kind = colour_class(segment.stage) or OTHER.css_class
        tip = f"{segment.stage} {segment.name}: {format_duration_ns(segment.total_ns)}, {format_share(share)}"
        drawing.rect(f"{kind} segment", x, top_px, width, _BAR_PX, tip)
        if width >= _LABELLED_SHARE:
            drawing.text(f"on-{kind}", x + width / 2, top_px + 20, f"{share * 100:.0f} %", "middle")
        x += width


def _bar_in_words(bar: Bar) -> str:
    parts = ", ".join(
        f"{segment.stage} {segment.name} {format_duration_ns(segment.total_ns)}" for segment in bar.segments
    )
    return f"{bar.label + ': ' if bar.label else ''}{format_duration_ns(bar.wall_ns)}, of that {parts}"
