# SPDX-License-Identifier: GPL-2.0-or-later
"""HTML pages in a real browser: nothing to complain of, every picture seen, on any screen and on paper."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from runs import HOST_TIMES, Setup, make_runs, scatter
from tracing import ROOT

from bench.html_report import write_stock
from lab.browser import Page, browser

PHONE_PX, DESK_PX = 360, 1440

PAGES = {
    "stock": ("report", "examples/stock-inflate.bt"),
    "bitmap": ("report", "examples/bitmap-inflate.bt"),
    "fragmented": ("report", "examples/bitmap-fragmented.bt"),
    "both": ("report", "examples/nested-qemu-guest.bt", "examples/nested-qemu-host.bt"),
    "host": ("report", "examples/nested-qemu-host.bt"),
    "several": ("report", "tests/data/stock-61-mib.bt"),
    "seven-both": ("report", "examples/nested-stock-guest.bt", "examples/nested-stock-host.bt"),
    "drivers": ("compare", "examples/stock-inflate.bt", "examples/bitmap-inflate.bt"),
}
SCREENS = [(PHONE_PX, False), (PHONE_PX, True), (DESK_PX, False), (DESK_PX, True)]

# Of each picture its size, how many shapes in it have an extent of their own, and words outside of its box.
_PICTURES = """
[...document.querySelectorAll('svg.picture')].map(svg => {
  const box = svg.getBoundingClientRect();
  const shapes = [...svg.querySelectorAll('rect, path, line, circle')].filter(shape => {
    const own = shape.getBoundingClientRect(), style = getComputedStyle(shape);
    const painted = style.fill !== 'none' && shape.tagName !== 'line' || style.stroke !== 'none';
    return painted && own.width + own.height > 0;
  });
  const texts = [...svg.querySelectorAll('text')];
  const outside = texts.filter(text => {
    const own = text.getBoundingClientRect();
    return own.left < box.left - 1 || own.right > box.right + 1
        || own.top < box.top - 2 || own.bottom > box.bottom + 2;
  });
  return {id: svg.id, width: box.width, height: box.height, shapes: shapes.length, texts: texts.length,
          outside: outside.map(text => text.textContent)};
})
"""

# The contrast of all words with what is behind them, and of the colours of pictures with the page
# (https://www.w3.org/TR/WCAG21/#dfn-contrast-ratio): the lowest of each sort, with the element it is of.
_CONTRASTS = """
(() => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const rgb = colour => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map(v => v / 255)
        .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const ratio = (one, other) => {
    const [a, b] = [light(rgb(one)), light(rgb(other))].sort((x, y) => y - x);
    return (a + 0.05) / (b + 0.05);
  };
  const behind = element => {
    for (let each = element; each; each = each.parentElement) {
      const colour = getComputedStyle(each).backgroundColor;
      if (rgb(colour)[3] === 255) return colour;
    }
    return 'canvas';
  };
  const lowest = {words: [99, ''], labels: [99, ''], shapes: [99, '']};
  const note = (sort, value, what) => { if (value < lowest[sort][0]) lowest[sort] = [value, what]; };
  for (const element of document.querySelectorAll('body *')) {
    const style = getComputedStyle(element);
    const owns = [...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
    if (element.closest('svg') || !owns) continue;
    note('words', ratio(style.color, behind(element)), element.tagName + ' ' + element.className);
  }
  for (const text of document.querySelectorAll('svg text')) {
    const kind = text.getAttribute('class');
    let ground = behind(text);
    if (kind.startsWith('on-')) ground = getComputedStyle(document.querySelector('.' + kind.slice(3))).fill;
    note('labels', ratio(getComputedStyle(text).fill, ground), kind);
  }
  for (const shape of document.querySelectorAll('svg .segment, svg .bucket, svg .rate')) {
    note('shapes', ratio(getComputedStyle(shape).fill, behind(shape)), shape.getAttribute('class'));
  }
  for (const line of document.querySelectorAll('svg .curve, svg .target, svg .ratio')) {
    note('shapes', ratio(getComputedStyle(line).stroke, behind(line)), line.getAttribute('class'));
  }
  return lowest;
})()
"""


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The pages, as the command writes them."""
    folder = tmp_path_factory.mktemp("pages")
    write_stock(folder / "seven.bt")
    for name, translate_ns in (("before", 30_000), ("after", 90_000)):
        (folder / name).mkdir()
        setup = Setup(host_times=replace(HOST_TIMES, translate=translate_ns))
        for number, run in enumerate(make_runs(setup, scatter(10, shift=translate_ns))):
            run.write(folder / name, f"run-{number}")
    made = {
        "seven": ("report", str(folder / "seven.bt")),
        "runs": ("compare", str(folder / "before"), str(folder / "after")),
    }
    found = {}
    for name, words in {**PAGES, **made}.items():
        found[name] = folder / f"{name}.html"
        argv = [sys.executable, "-m", "balloontrace", *words, "--format", "html", "-o", str(found[name])]
        subprocess.run(argv, cwd=ROOT, check=True, capture_output=True)
    return found


NAMES = [*PAGES, "seven", "runs"]


@pytest.mark.parametrize(("width_px", "dark"), SCREENS)
@pytest.mark.parametrize("name", NAMES)
def test_a_page_on_a_screen(
    name: str, width_px: int, *, dark: bool, page: Page, files: dict[str, Path]
) -> None:
    page.open(files[name], width_px=width_px, dark=dark)
    assert page.complaints == []
    assert [url for url in page.requests if not url.startswith("data:")] == [files[name].as_uri()]
    assert page.ask("document.documentElement.scrollWidth") <= width_px
    assert page.ask("window.innerWidth") == width_px
    pictures = page.ask(_PICTURES)
    assert pictures
    for picture in pictures:
        assert picture["width"] > (40 if picture["id"].endswith("-rows") else 200), picture
        assert picture["height"] > 15, picture
        assert picture["shapes"] > 0 or picture["id"].endswith("-rows"), picture
        assert picture["shapes"] + picture["texts"] > 0, picture
        assert picture["outside"] == [], picture
    contrasts = page.ask(_CONTRASTS)
    # What WCAG 2.1 asks for at level AA: 4.5 for words, 3 for what pictures are made of.
    for sort, least in (("words", 4.5), ("labels", 4.5), ("shapes", 3.0)):
        assert contrasts[sort][0] >= least, (sort, contrasts[sort])


def test_light_and_dark_are_not_the_same(page: Page, files: dict[str, Path]) -> None:
    grounds = []
    for dark in (False, True):
        page.open(files["both"], dark=dark)
        grounds.append(page.ask("getComputedStyle(document.body).backgroundColor"))
    assert grounds == ["rgb(255, 255, 255)", "rgb(20, 24, 29)"]


def colours_of(png: bytes) -> set[tuple[int, ...]]:
    """The different colours of a picture's pixels."""
    with Image.open(io.BytesIO(png)) as image:
        found = image.convert("RGB").getcolors(image.width * image.height)
    assert found is not None
    return {colour for _, colour in found if isinstance(colour, tuple)}


@pytest.mark.parametrize("name", ["both", "fragmented"])
def test_what_is_seen_has_the_colours_of_its_parts(name: str, page: Page, files: dict[str, Path]) -> None:
    page.open(files[name], width_px=700)
    for ident in ["stages-1", "time-1"] + (["map-1"] if name == "fragmented" else []):
        wanted = page.ask(
            f"[...new Set([...document.querySelectorAll('#{ident} rect.segment, #{ident} svg path')]"
            # What is thinner than that is all edge.
            ".filter(shape => shape.getBoundingClientRect().width > 4)"
            ".map(shape => getComputedStyle(shape).fill))].filter(fill => /^rgb\\(/.test(fill))"
        )
        assert len(wanted) >= 2
        x, y, width, height = page.ask(
            f"(() => {{ const box = document.querySelector('#{ident}').getBoundingClientRect();"
            " return [box.x + scrollX, box.y + scrollY, box.width, box.height]; })()"
        )
        seen = colours_of(page.screenshot((x, y, width, height)))
        for colour in wanted:
            assert tuple(map(int, colour[4:-1].split(", "))) in seen, (ident, colour)


@pytest.mark.parametrize("name", ["both", "fragmented", "runs"])
def test_a_page_on_paper(name: str, page: Page, files: dict[str, Path]) -> None:
    page.open(files[name], width_px=DESK_PX, dark=True)
    printed = page.pdf()
    assert printed.startswith(b"%PDF-")
    assert printed.rstrip().endswith(b"%%EOF")
    assert 1 < printed.count(b"/Type /Page\n") <= 8
    page.emulate_print()
    # Paper is white whatever the screen is, and there is no use for links into the page.
    assert page.ask("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.ask("getComputedStyle(document.querySelector('nav')).display") == "none"
    assert page.complaints == []


def test_a_page_without_a_mouse(page: Page, files: dict[str, Path]) -> None:
    """Tab reaches all that can be scrolled or opened, in the order it stands in."""
    page.open(files["fragmented"], width_px=PHONE_PX)
    wanted = page.ask(
        "[...document.querySelectorAll('a[href], .scroll, summary')].filter(e => e.checkVisibility()).length"
    )
    reached = []
    for _ in range(wanted):
        page.press("Tab")
        reached.append(
            page.ask(
                "(() => { const e = document.activeElement, top = e.getBoundingClientRect().top;"
                " return [e.tagName, top + scrollY, getComputedStyle(e).outlineStyle]; })()"
            )
        )
    assert {name for name, _, _ in reached} == {"A", "DIV", "SUMMARY"}
    places = [place for _, place, _ in reached]
    assert places == sorted(places)
    assert all(outline != "none" for _, _, outline in reached[1:])
