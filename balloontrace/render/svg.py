# SPDX-License-Identifier: GPL-2.0-or-later
"""Pictures as inline SVG that fills the width it is given: x in fractions of that width, y in pixels.

Letters keep their size at any width, so that a picture can be read on a phone as on a desk. Colours come from
the page's style, by class. Everything that is text is escaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from markupsafe import Markup

_STRETCHED = "none"


def tag(name: str, *inside: str, **attributes: str | float | None) -> Markup:
    """An element; `_` at the end of an attribute's name is dropped, elsewhere it stands for `-`."""
    words = Markup("").join(
        Markup(' {}="{}"').format(key.removesuffix("_").replace("_", "-"), _value(value))
        for key, value in attributes.items()
        if value is not None
    )
    return Markup("<{}{}>{}</{}>").format(name, words, Markup("").join(inside), name)


def percent(fraction: float) -> str:
    """A part of the width: 0.5 is `50%`."""
    return f"{number(fraction * 100)}%"


def number(value: float) -> str:
    """Short digits: three decimals at most, and none that say nothing."""
    return f"{value:.3f}".rstrip("0").rstrip(".")


class Drawing:
    """A picture of some height; what is added later lies on top."""

    def __init__(self, height_px: float) -> None:
        self.height_px = height_px
        self._elements: list[Markup] = []

    def rect(
        self, kind: str, x: float, y_px: float, width: float, height_px: float, tip: str | None = None
    ) -> None:
        """A rectangle; `tip` is shown when it is pointed at."""
        self._elements.append(
            tag(
                "rect",
                *([tag("title", tip)] if tip else []),
                class_=kind,
                x=percent(x),
                y=y_px,
                width=percent(width),
                height=height_px,
            )
        )

    def line(self, kind: str, from_: tuple[float, float], to: tuple[float, float]) -> None:
        """A line between two points, each x and y."""
        x1, x2 = percent(from_[0]), percent(to[0])
        self._elements.append(tag("line", class_=kind, x1=x1, y1=from_[1], x2=x2, y2=to[1]))

    def dot(self, kind: str, x: float, y_px: float, radius_px: float, tip: str | None = None) -> None:
        """A circle, round at any width."""
        inside = [tag("title", tip)] if tip else []
        self._elements.append(tag("circle", *inside, class_=kind, cx=percent(x), cy=y_px, r=radius_px))

    def text(self, kind: str, x: float, y_px: float, words: str, anchor: str = "start") -> None:
        """Words whose baseline is at y; `anchor` says what of them is at x: start, middle or end."""
        self._elements.append(
            tag(
                "text",
                words,
                class_=kind,
                x=percent(x),
                y=y_px,
                text_anchor=None if anchor == "start" else anchor,
            )
        )

    def paths(
        self, y_px: float, height_px: float, box: tuple[float, float], shapes: Iterable[tuple[str, str]]
    ) -> None:
        """Paths, each with its class, in coordinates of their own that span the width and `height_px`."""
        drawn = [
            tag("path", class_=kind, d=path, vector_effect="non-scaling-stroke")
            for kind, path in shapes
            if path
        ]
        self._elements.append(
            tag(
                "svg",
                *drawn,
                y=y_px,
                width="100%",
                height=height_px,
                viewBox=f"0 0 {number(box[0])} {number(box[1])}",
                preserveAspectRatio=_STRETCHED,
            )
        )

    def markup(self, ident: str, title: str, description: str) -> Markup:
        """The whole picture, with what it shows in words for those who do not see it."""
        return tag(
            "svg",
            tag("title", title, id=f"{ident}-title"),
            tag("desc", description, id=f"{ident}-desc"),
            *self._elements,
            id=ident,
            class_="picture",
            role="img",
            aria_labelledby=f"{ident}-title {ident}-desc",
            width="100%",
            height=self.height_px,
        )


def steps_path(points: Sequence[tuple[float, float]]) -> str:
    """A line through points that are each directly above, below or beside the one before."""
    if not points:
        return ""
    words = [f"M{number(points[0][0])} {number(points[0][1])}"]
    last = points[0]
    for point in points[1:]:
        if point[0] != last[0]:
            words.append(f"H{number(point[0])}")
        if point[1] != last[1]:
            words.append(f"V{number(point[1])}")
        last = point
    return "".join(words)


def _value(value: str | float) -> str:
    return value if isinstance(value, str) else number(value)
