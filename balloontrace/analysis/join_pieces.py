# SPDX-License-Identifier: GPL-2.0-or-later
"""Pieces of a host's recording that follow each other without a gap, as the one that they were cut of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import chain

from balloontrace.analysis.metadata import Json, integer, mapping
from balloontrace.format.recording import Recording


def join_pieces(pieces: Sequence[Recording]) -> Recording:
    """What one process did in all of these pieces, in their order; of one piece, that one.

    How the host stood at both ends is from the first and the last piece. Sums of calls, and what recording
    cost, stay with the pieces, whose own entries have them: here they are unknown.
    """
    first, last = pieces[0], pieces[-1]
    if first is last:
        return first
    end = last.end and {
        **last.end,
        "losses": _summed(mapping(each.end or {}, "losses") for each in pieces),
        "own_cost": None,
    }
    return replace(
        first,
        batches=tuple(chain.from_iterable(each.batches for each in pieces)),
        sampled=tuple(chain.from_iterable(each.sampled for each in pieces)),
        readings=tuple(chain.from_iterable(each.readings for each in pieces)),
        damage=tuple(chain.from_iterable(each.damage for each in pieces)),
        notes=tuple(dict.fromkeys(chain.from_iterable(each.notes for each in pieces))),
        size_bytes=sum(each.size_bytes for each in pieces),
        counters=None,
        end=end,
    )


def _summed(losses: Iterable[Json]) -> dict[str, dict[str, int | None]]:
    """Losses of all pieces, by function; a count that one of them does not know is unknown."""
    found: dict[str, dict[str, int | None]] = {}
    for of_piece in losses:
        for function in of_piece:
            counts = mapping(of_piece, function)
            before = found.get(function)
            found[function] = {
                name: integer(counts, name)
                if before is None
                else _plus(before.get(name), integer(counts, name))
                for name in counts
            }
    return found


def _plus(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else one + other
