# SPDX-License-Identifier: GPL-2.0-or-later
"""`make screenshots`: pictures for the README, of the pages that the examples give."""

from __future__ import annotations

import io
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from lab.browser import Page, browser
from lab.errors import LabError
from lab.script import run

ROOT = Path(__file__).parent.parent
PICTURES = ROOT / "docs" / "pictures"
_COLOURS = 128


@dataclass(frozen=True)
class Shot:
    """A part of a page: from the top of one element to the bottom of another, `width_px` wide.

    `prepare` is a command that makes what `command` reads.
    """

    name: str
    command: tuple[str, ...]
    first: str
    last: str
    width_px: int = 1000
    dark: bool = False
    prepare: tuple[str, ...] = ()


SHOTS = (
    Shot(
        "report-both-sides",
        ("report", "examples/nested-qemu-guest.bt", "examples/nested-qemu-host.bt"),
        "header",
        "#time-1",
    ),
    Shot("report-map", ("report", "examples/bitmap-inflate.bt"), ".map", ".legend", dark=True),
    Shot("report-map-fragmented", ("report", "examples/bitmap-fragmented.bt"), ".map", ".legend", dark=True),
    Shot(
        "compare",
        ("compare", "examples/before", "examples/after"),
        "#group-1",
        "#time-ratios-1",
    ),
    Shot(
        "fleet",
        ("fleet", "build/fleet", "stages"),
        "header",
        "figure",
        prepare=("archive", "examples/before", "examples/after", "--to", "build/fleet"),
    ),
    Shot("report-phone", ("report", "examples/bitmap-fragmented.bt"), "header", "#time-1", width_px=390),
)


def main() -> int:
    """Take them all anew."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory() as folder, browser() as page:
            for shot in SHOTS:
                target = PICTURES / f"{shot.name}.png"
                target.write_bytes(take(shot, page, Path(folder)))
                print(f"screenshots: {target.relative_to(ROOT)}", file=sys.stderr)
    except LabError as error:
        print(f"screenshots: {error}", file=sys.stderr)
        return 1
    return 0


def take(shot: Shot, page: Page, folder: Path) -> bytes:
    """The PNG of a shot, in few colours. Raises LabError."""
    html = folder / f"{shot.name}.html"
    for words in (shot.prepare, (*shot.command, "--format", "html", "-o", str(html))):
        if words:
            argv = [sys.executable, "-m", "balloontrace", *words]
            subprocess.run(argv, cwd=ROOT, check=True, stderr=subprocess.DEVNULL)
    page.open(html, width_px=shot.width_px, dark=shot.dark)
    top, bottom = (
        page.ask(f"document.querySelector('{selector}').getBoundingClientRect().{edge} + scrollY")
        for selector, edge in ((shot.first, "top"), (shot.last, "bottom"))
    )
    margin_px = 4
    start = max(top - margin_px, 0)
    png = page.screenshot((0, start, shot.width_px, bottom + margin_px - start))
    with Image.open(io.BytesIO(png)) as image:
        small = io.BytesIO()
        image.convert("RGB").quantize(_COLOURS, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    return small.getvalue()


if __name__ == "__main__":
    run(main, __doc__)
