# SPDX-License-Identifier: GPL-2.0-or-later
"""The pages: links lead somewhere, quotes are real output, sentences are short and words common."""

from __future__ import annotations

import inspect
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from command_tree import commands

ROOT = Path(__file__).parents[2]
QUOTING = sorted(path.relative_to(ROOT) for path in (ROOT / "README.md", *ROOT.glob("docs/*.md")))
PAGES = sorted(
    {*QUOTING, *(path.relative_to(ROOT) for path in (*ROOT.glob("*.md"), *ROOT.glob("*/README.md")))}
)
SENTENCE_WORDS = 25

# What nobody writes who does not want to be read twice.
RARE = (
    *("mend", "mends", "seldom", "seldomer", "shall", "lest", "whence", "dearer", "hitherto"),
    *("cannot be meant", "as meant", "was of nothing", "the seed's", "odd one", "likewise"),
)
KINDS = {".py", ".c", ".h", ".md", ".in", ".html", ".css", ".txt"}


@cache
def text_files() -> tuple[Path, ...]:
    """Every text of the project but this one and what others wrote."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split("\n")  # fmt: skip
    found = (ROOT / name for name in listed if name and name != str(Path(__file__).relative_to(ROOT)))
    return tuple(path for path in found if path.suffix in KINDS and path.exists())


def prose(page: str) -> Iterator[str]:
    """The paragraphs, items and cells of a page of Markdown, without code."""
    page = re.sub(r"^```.*?^```$", "", page, flags=re.MULTILINE | re.DOTALL)
    page = re.sub(r"^ {4,}\S.*$", "", page, flags=re.MULTILINE)
    page = re.sub(r"`[^`]*`", "code", page)
    page = re.sub(r"!?\[([^]]*)\]\([^)]*\)", r"\1", page)
    for block in re.split(r"\n\s*\n|\n(?=\s*(?:[*#|-]|\d\.) ?)", page):
        yield from re.split(r" \| |^\||\|$", " ".join(block.split()))


def sentences(text: str) -> Iterator[str]:
    """What stands between full stops, colons and semicolons."""
    yield from re.split(r"(?<=[.:;?!])\W* ", text)


def too_long(texts: Iterator[str]) -> list[str]:
    return [
        each
        for text in texts
        for each in sentences(text)
        if len(re.findall(r"\w+\S*", each)) > SENTENCE_WORDS
    ]


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_sentences_of_pages_are_short(page: Path) -> None:
    assert too_long(prose((ROOT / page).read_text())) == []


@pytest.mark.parametrize("words", commands(), ids=lambda words: " ".join(words) or "balloontrace")
def test_sentences_of_help_are_short(words: tuple[str, ...]) -> None:
    command = commands()[words]
    texts = [
        inspect.cleandoc(command.help or ""),
        *(getattr(option, "help", None) or "" for option in command.params),
    ]
    assert too_long(part for text in texts for part in prose(text.replace("\b\n", "    "))) == []


def test_sentences_of_the_manual_are_short() -> None:
    text = (ROOT / "docs/balloontrace.1.in").read_text()
    text = re.sub(r'^\.\\".*\n', "", text, flags=re.MULTILINE)
    text = re.sub(r"^\.(?:SH|TP|PP|TH|RS|EX|EE|RE).*$", "\n", text, flags=re.MULTILINE)
    assert too_long(prose(re.sub(r"^\.[BI]R? ", "", text, flags=re.MULTILINE))) == []


def test_rare_words_are_not_used() -> None:
    # A name in quotes may be a field of JSON, which stays.
    words = "|".join(map(re.escape, RARE))
    pattern = re.compile(rf"(?<![\w.\"-])(?:{words})(?![\w-])", re.IGNORECASE)
    found = [
        f"{path.relative_to(ROOT)}:{text.count(chr(10), 0, match.start()) + 1}: {match[0]}"
        for path in text_files()
        for text in [path.read_text()]
        for match in pattern.finditer(text)
    ]
    assert found == []


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", (ROOT / page).read_text()):
        assert "://" in target or (ROOT / page.parent / target).exists(), target


@pytest.mark.parametrize("page", QUOTING, ids=str)
def test_quotes_are_pieces_of_real_output(page: Path) -> None:
    """Live tests compare the examples' texts with the program's output."""
    examples = [path.read_text() for path in (ROOT / "examples").glob("*.txt")]
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)
    for quote in (text for language, text in blocks if not language):
        assert any(quote in example for example in examples), quote


@pytest.mark.parametrize("page", ["ARCHITECTURE.md", "CONTRIBUTING.md"])
def test_files_named_there_are_there(page: str) -> None:
    text = re.sub(r"^```.*?^```$", "", (ROOT / page).read_text(), flags=re.MULTILINE | re.DOTALL)
    named = set(re.findall(r"`([a-z_]+/[\w./]*|[\w.]+\.(?:py|c|h))`", text))
    places = (
        ROOT,
        ROOT / "balloontrace",
        ROOT / "balloontrace/commands",
        ROOT / "balloontrace/trace",
        ROOT / "bpf",
    )
    missing = {
        name
        for name in named
        if "NAME" not in name
        and not any((place / (name + end)).exists() for place in places for end in ("", ".py"))
    }
    assert len(named) > 5
    assert missing == set()
