# SPDX-License-Identifier: GPL-2.0-or-later
"""HTML into a tree that tests can ask; what a browser would silently repair is an error here."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser

_VOID = frozenset({"meta", "link", "br", "hr", "img"})


@dataclass
class Element:
    """An element with what is in it: elements and text."""

    tag: str
    attributes: dict[str, str]
    children: list[Element | str] = field(default_factory=list)

    def walk(self) -> Iterator[Element]:
        """It and all elements in it."""
        yield self
        for child in self.children:
            if isinstance(child, Element):
                yield from child.walk()

    def all(self, tag: str, where: Callable[[Element], bool] = lambda _: True) -> list[Element]:
        return [element for element in self.walk() if element.tag == tag and where(element)]

    def by_id(self, ident: str) -> Element:
        (found,) = (element for element in self.walk() if element.attributes.get("id") == ident)
        return found

    @property
    def text(self) -> str:
        return "".join(child if isinstance(child, str) else child.text for child in self.children)

    @property
    def values(self) -> list[str | None]:
        """What its numbers are exactly, None for each that was not measured, in order."""
        return [
            element.attributes["value"] if element.tag == "data" else None
            for element in self.walk()
            if element.tag == "data" or element.attributes.get("class") == "none"
        ]


class _Builder(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Element("document", {})
        self._open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"<{tag}> has an attribute twice: {names}"
        element = Element(tag, {name: value or "" for name, value in attrs})
        self._open[-1].children.append(element)
        if tag not in _VOID:
            self._open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self._open[-1].tag == tag, f"</{tag}> closes <{self._open[-1].tag}>"
        self._open.pop()

    def handle_data(self, data: str) -> None:
        self._open[-1].children.append(data)

    def close(self) -> None:
        super().close()
        assert len(self._open) == 1, f"<{self._open[-1].tag}> is not closed"


def parse(page: str) -> Element:
    """The tree of a whole page."""
    builder = _Builder()
    builder.feed(page)
    builder.close()
    return builder.root


def assert_sound(page: str) -> Element:
    """Well-formed, in one file, without a script; what refers to something finds it."""
    tree = parse(page)
    idents = [element.attributes["id"] for element in tree.walk() if "id" in element.attributes]
    assert len(idents) == len(set(idents))
    assert not tree.all("script")
    for element in tree.walk():
        for name, value in element.attributes.items():
            assert not name.startswith("on"), element
            assert name not in ("src", "srcset", "style"), element
            if name == "href":
                assert value.startswith("#") or value == "data:,", value
                assert value == "data:," or value[1:] in idents, value
            if name in ("aria-labelledby", "aria-describedby"):
                assert set(value.split()) <= set(idents)
    (style,) = tree.all("style")
    assert "url(" not in style.text
    assert "@import" not in style.text
    assert not re.search(r"\bNone\b|\bnan\b|Undefined", tree.by_id("main").text)
    for picture in tree.all("svg", lambda each: each.attributes.get("class") == "picture"):
        assert picture.attributes["role"] == "img"
        named = [tree.by_id(ident).text for ident in picture.attributes["aria-labelledby"].split()]
        assert all(text.strip() for text in named), picture.attributes["id"]
    levels = [int(element.tag[1]) for element in tree.walk() if re.fullmatch("h[1-6]", element.tag)]
    assert levels.count(1) == 1
    assert all(later - earlier <= 1 for earlier, later in itertools.pairwise(levels))
    for table in tree.all("table"):
        widths = {len(row.all("th") + row.all("td")) for row in table.all("tr")}
        assert len(widths) == 1, table.text
    return tree


def exactly(value: float | None) -> str | None:
    return None if value is None else repr(value)
