# SPDX-License-Identifier: GPL-2.0-or-later
"""Where each balloon stood at both ends of a recording, and what left it outside of work items, in words."""

from __future__ import annotations

from collections.abc import Iterable

from balloontrace.render import numbers
from balloontrace.render.blocks import Item, Line, Section, Text, words
from balloontrace.results.balloon import Balloon, BalloonState, GivenBack


def describe_balloons(balloons: Iterable[Balloon]) -> Section:
    """A line a balloon, and below it one for each way in which it shrank by itself."""
    blocks: list[Line | Item] = []
    for balloon in balloons:
        blocks.append(Line(words("Balloon of {}: {}", balloon.device, _stood(balloon))))
        blocks += [Item(_gave_back(each)) for each in balloon.given_back]
    return blocks


def _stood(balloon: Balloon) -> Text:
    """`0 B of target 0 B at the start, 421 MiB of target 724 MiB at the end, 303 MiB below its target`."""
    ends = words("{} at the start, {} at the end", _at(balloon.at_start), _at(balloon.at_end))
    for off_pages, where in ((balloon.below_target_pages, "below"), (balloon.above_target_pages, "above")):
        if off_pages:
            ends = words("{}, {} " + where + " its target", ends, numbers.pages(off_pages))
    return words("{}{}", ends, _sources(balloon))


def _gave_back(given: GivenBack) -> Text:
    """`out of memory: 303 MiB given back in 303 calls, then 303 MiB below its target`."""
    sentence = words(
        "{}: {} given back in {}",
        given.how,
        numbers.pages(given.pages),
        numbers.things(given.calls, "call"),
    )
    if given.below_target_pages is None:
        return sentence
    return words("{}, then {} below its target", sentence, numbers.pages(given.below_target_pages))


def _at(state: BalloonState) -> Text:
    if state.present is False:
        return "not there"
    return words("{} of target {}", numbers.pages(state.size_pages), numbers.pages(state.target_pages))


def _sources(balloon: Balloon) -> str:
    """Where sizes and targets come from, in brackets."""
    states = (balloon.at_start, balloon.at_end)
    sizes = " and ".join(dict.fromkeys(each.size_source for each in states if each.size_source))
    targets = " and ".join(dict.fromkeys(each.target_source for each in states if each.target_source))
    if targets and targets != sizes:
        targets = f"target {targets}"
        return f" (size from {sizes}; {targets})" if sizes else f" ({targets})"
    return f" (from {sizes})" if sizes else ""
