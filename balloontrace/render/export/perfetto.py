# SPDX-License-Identifier: GPL-2.0-or-later
"""A time line as trace events in JSON, which ui.perfetto.dev and chrome://tracing open.

Slices are B and E events in the order of nesting: readers keep their order where times are equal, while of
X events that nest only to within their rounding trace_processor drops one. Tracks have numbers of their own
because a thread's name is looked up by its number alone, whatever its process. `traceEvents` comes first:
some readers stop at a key they do not know.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping

from balloontrace.results.time_line import Counter, Instant, Process, Timeline, Track

# Process numbers are 1 and up, and no track may have one of those.
_FIRST_TRACK = 11
_CHUNK_EVENTS = 2048

_CATEGORY = "balloon"
_ARROW = "served"

# json.dumps would make an encoder for each event.
_json = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


def render_perfetto(timeline: Timeline) -> Iterator[str]:
    """The whole file, some thousand events at a time."""
    yield '{"traceEvents":[\n'
    events = _events(timeline.processes)
    before = ""
    while chunk := list(itertools.islice(events, _CHUNK_EVENTS)):
        yield before + ",\n".join(chunk)
        before = ",\n"
    about = {"clock": timeline.clock, "origin_ns": timeline.origin_ns, **timeline.about}
    yield f'\n],\n"otherData":{_json(about)}}}\n'


def _events(processes: Iterable[Process]) -> Iterator[str]:
    tracks = itertools.count(_FIRST_TRACK)
    for number, process in enumerate(processes, start=1):
        yield _named("process_name", number, number, {"name": process.name})
        yield _named("process_sort_index", number, number, {"sort_index": number})
        if process.instants or process.counters:
            yield from _moments(process, number, next(tracks))
        for track in process.tracks:
            yield from _track(track, number, next(tracks))


def _moments(process: Process, number: int, tid: int) -> Iterator[str]:
    """A track of instants, and the counters, which belong to the process."""
    yield from _begin_track("events", number, tid)
    for instant in process.instants:
        yield _instant(instant, number, tid)
    for counter in process.counters:
        yield from _counter(counter, number, tid)


def _track(track: Track, number: int, tid: int) -> Iterator[str]:
    yield from _begin_track(track.name, number, tid)
    place = f'"pid":{number},"tid":{tid}'
    open_until_ns: list[int] = []
    for each in track.slices:
        while open_until_ns and open_until_ns[-1] <= each.start_ns:
            yield f'{{"ph":"E","ts":{_us(open_until_ns.pop())},{place}}}'
        open_until_ns.append(each.end_ns)
        at = f'"ts":{_us(each.start_ns)},{place}'
        arguments = f',"args":{_json(each.arguments)}' if each.arguments else ""
        yield f'{{"ph":"B","name":{_json(each.name)},"cat":"{_CATEGORY}",{at}{arguments}}}'
        for phase, arrow in (("s", each.arrow_out), ("f", each.arrow_in)):
            if arrow is not None:
                yield (f'{{"ph":"{phase}","bp":"e","id":{arrow},"name":"{_ARROW}","cat":"{_CATEGORY}",{at}}}')
    while open_until_ns:
        yield f'{{"ph":"E","ts":{_us(open_until_ns.pop())},{place}}}'


def _begin_track(name: str, number: int, tid: int) -> Iterator[str]:
    yield _named("thread_name", number, tid, {"name": name})
    yield _named("thread_sort_index", number, tid, {"sort_index": tid})


def _named(what: str, number: int, tid: int, arguments: Mapping[str, object]) -> str:
    return f'{{"ph":"M","name":"{what}","pid":{number},"tid":{tid},"args":{_json(arguments)}}}'


def _instant(instant: Instant, number: int, tid: int) -> str:
    return (
        f'{{"ph":"i","s":"t","name":{_json(instant.name)},"cat":"{_CATEGORY}","ts":{_us(instant.at_ns)},'
        f'"pid":{number},"tid":{tid},"args":{_json(instant.arguments)}}}'
    )


def _counter(counter: Counter, number: int, tid: int) -> Iterator[str]:
    name = _json(counter.name)
    for at_ns, value in counter.points:
        arguments = _json({counter.unit: value})
        yield (f'{{"ph":"C","name":{name},"ts":{_us(at_ns)},"pid":{number},"tid":{tid},"args":{arguments}}}')


def _us(time_ns: int) -> str:
    """Microseconds, and 0.2 ns more: a reader that cuts off below a nanosecond comes out at the right one."""
    return f"{time_ns // 1000}.{time_ns % 1000:03}2"
