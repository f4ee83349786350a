# SPDX-License-Identifier: GPL-2.0-or-later
"""The commands that pages show."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tracing import ROOT


def console_blocks(page: str) -> Iterator[tuple[str, list[str]]]:
    """Each `$ command` of a page's console blocks with the lines shown below it."""
    for block in re.findall(r"^```console\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, *shown = part.splitlines()
            yield command, shown


def shell_blocks(page: str) -> list[str]:
    """The page's blocks of shell, each of them one command."""
    return re.findall(r"^```sh\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)


def indented_commands(page: str) -> Iterator[str]:
    """The lines of a page's indented code, without the remarks behind them."""
    text = re.sub(r"^```.*?^```", "", (ROOT / page).read_text(), flags=re.MULTILINE | re.DOTALL)
    for line in re.findall(r"^ {4}(\S.*)$", text, re.MULTILINE):
        yield re.sub(r"\s{2,}#.*", "", line)
