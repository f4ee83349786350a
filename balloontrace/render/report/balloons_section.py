# SPDX-License-Identifier: GPL-2.0-or-later
"""Where each balloon stood at both ends of a recording, and what left it outside of work items, in words."""

from __future__ import annotations

from collections.abc import Iterable

from balloontrace.render.blocks import Item, Line, Section
from balloontrace.results.report import Balloon, BalloonState, GivenBack
from balloontrace.units import format_pages_as_bytes, format_things


def describe_balloons(balloons: Iterable[Balloon]) -> Section:
    """A line a balloon, and below it one for each way in which it shrank by itself."""
    blocks: list[Line | Item] = []
    for balloon in balloons:
        blocks.append(Line(f"Balloon of {balloon.device}: {stood(balloon)}"))
        blocks += [Item(gave_back(each)) for each in balloon.given_back]
    return blocks


def stood(balloon: Balloon) -> str:
    """`0 B of target 0 B at the start, 421 MiB of target 724 MiB at the end, 303 MiB below its target`."""
    ends = f"{_at(balloon.at_start)} at the start, {_at(balloon.at_end)} at the end"
    if balloon.below_target_pages:
        ends += f", {format_pages_as_bytes(balloon.below_target_pages)} below its target"
    if balloon.above_target_pages:
        ends += f", {format_pages_as_bytes(balloon.above_target_pages)} above its target"
    return f"{ends}{_sources(balloon)}"


def gave_back(given: GivenBack) -> str:
    """`out of memory: 303 MiB given back in 303 calls, then 303 MiB below its target`."""
    sentence = f"{given.how}: {format_pages_as_bytes(given.pages)} given back"
    sentence += f" in {format_things(given.calls, 'call')}"
    if given.below_target_pages is None:
        return sentence
    return f"{sentence}, then {format_pages_as_bytes(given.below_target_pages)} below its target"


def _at(state: BalloonState) -> str:
    if state.present is False:
        return "not there"
    return f"{format_pages_as_bytes(state.size_pages)} of target {format_pages_as_bytes(state.target_pages)}"


def _sources(balloon: Balloon) -> str:
    """Where sizes and targets come from, in brackets."""
    states = (balloon.at_start, balloon.at_end)
    sizes = " and ".join(dict.fromkeys(each.size_source for each in states if each.size_source))
    targets = " and ".join(dict.fromkeys(each.target_source for each in states if each.target_source))
    if targets and targets != sizes:
        targets = f"target {targets}"
        return f" (size from {sizes}; {targets})" if sizes else f" ({targets})"
    return f" (from {sizes})" if sizes else ""
