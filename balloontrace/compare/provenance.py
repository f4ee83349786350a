# SPDX-License-Identifier: GPL-2.0-or-later
"""What folders of `measure` say of the machines, in words, and in what two of them differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from balloontrace.results.comparison import Difference
from balloontrace.results.measurement import Condition
from balloontrace.untrusted import printable

# By machine, then by what `measure/facts` calls them. The load differs always, and is told apart.
_NAMES = {
    "kernel": "kernel and its build",
    "cpu_model": "CPU model",
    "cpus": "CPUs",
    "governor": "CPU frequency governor",
    "boost": "CPU boost",
    "smt": "SMT",
    "thp": "THP",
    "numa_nodes": "NUMA nodes",
}
_IN_RECORDINGS = frozenset({"kernel", "cpus", "thp", "numa_nodes"})  # which tell of them themselves
_BUSY = 0.5
_UNKNOWN = "unknown"
_VMM = "command line of the VMM"


def conditions_of(told: Mapping[str, Any]) -> tuple[Condition, ...]:
    """What is known of the machines, by what it is called; not the long words of the VMM."""
    found = dict(_of_machines(told, frozenset()))
    found.pop(_VMM, None)
    for machine in ("host", "guest"):
        load = _of(told, machine).get("load")
        if load is not None:
            found[f"load of the {machine}"] = str(load)
    return tuple(Condition(name, value) for name, value in found.items())


def tell_differences(before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> list[Difference]:
    """What was not the same; nothing where one side does not say on what it was made."""
    if not before or not after:
        return []
    first, second = (dict(_of_machines(told, _IN_RECORDINGS)) for told in (before, after))
    names = [*first, *(name for name in second if name not in first)]
    found = [
        _difference(name, first.get(name, _UNKNOWN), second.get(name, _UNKNOWN))
        for name in names
        if first.get(name, _UNKNOWN) != second.get(name, _UNKNOWN)
    ]
    states = [str(told.get("state_command") or "none") for told in (before, after)]
    if states[0] != states[1]:
        text = f"state: {states[0]} before, {states[1]} after"
        found.insert(0, Difference("state", states[0], states[1], expected=True, text=text))
    busy = [_busy(told) for told in (before, after)]
    if busy[0] != busy[1]:
        found.append(
            _difference("other work of the host when it began", *(each or "little" for each in busy))
        )
    return found


def _of_machines(told: Mapping[str, Any], without: frozenset[str]) -> Iterator[tuple[str, str]]:
    for machine in ("host", "guest"):
        values = _of(told, machine)
        for key, name in _NAMES.items():
            if key not in without and values.get(key) is not None:
                yield f"{name} of the {machine}", printable(str(values[key]))
    vmm = told.get("vmm")
    if isinstance(vmm, list):
        yield _VMM, " ".join(map(str, vmm))
    if isinstance(told.get("touched"), bool):
        yield "memory touched before", "yes" if told["touched"] else "no"


def _of(told: Mapping[str, Any], machine: str) -> Mapping[str, Any]:
    found = told.get(machine)
    return found if isinstance(found, dict) else {}


def _busy(told: Mapping[str, Any]) -> str | None:
    """The host's load in words where it had other work to do."""
    host = _of(told, "host")
    load, cpus = host.get("load"), host.get("cpus")
    if isinstance(load, int | float) and isinstance(cpus, int) and cpus and load / cpus > _BUSY:
        return f"load {load:g}"
    return None


def _difference(name: str, before: str, after: str) -> Difference:
    text = f"{name}: {before} before, {after} after"
    if max(len(before), len(after)) > 80:
        text = f"{name}: {_first_change(before, after)}"
    return Difference(name, before, after, expected=False, text=text)


def _first_change(before: str, after: str) -> str:
    """The words that only one of two long lines has."""
    first, second = before.split(), after.split()
    gone = [word for word in first if word not in second]
    new = [word for word in second if word not in first]
    return f"{' '.join(gone) or 'nothing more'} before, {' '.join(new) or 'nothing more'} after"
