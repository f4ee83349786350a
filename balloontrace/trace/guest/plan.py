# SPDX-License-Identifier: GPL-2.0-or-later
"""The plan that fits the facts of one kernel: which of the functions worth tracing are reached, and how."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace

from balloontrace.errors import MissingProbeError
from balloontrace.format.vocabulary import ALLOCATION_TRACEPOINTS, FREE_PAGE_HINT_BIT, Function, Status
from balloontrace.system.kernel import Layout, Symbol
from balloontrace.trace.guest.probes import ALLOCATION, TABLE, ProbePoint
from balloontrace.trace.mechanism import Mechanism
from balloontrace.trace.plan import Plan, PlannedProbe

# Symbols beside a function's body that never are the function: split-off cold paths, padding, CFI thunks.
_NEVER = re.compile(r"(^__pfx_|^__cfi_|\.cold(\.|$))")
# Kinds of clones, best first; a `.part` covers only part of its function.
_CLONES = ("isra", "constprop", "llvm", "part")


@dataclass(frozen=True)
class GuestProbe(PlannedProbe[ProbePoint]):
    """A row of the table as it fits this kernel."""

    symbols: tuple[Symbol, ...] = ()
    arguments_trusted: bool = True

    @property
    def function(self) -> Function:
        """The function the row is about."""
        return self.point.function

    def target(self, symbol: Symbol, *, returns: bool) -> str:
        """The symbol, or the tracepoint with its category."""
        return self.point.tracepoint or super().target(symbol, returns=returns)

    @property
    def by_symbol(self) -> tuple[tuple[Symbol, Mechanism], ...]:
        """Each symbol with its mechanism: of equal names fentry reaches the one at the lowest address only.

        (kallsyms_lookup_name, which fentry uses, returns the first in the order of addresses.)
        """
        if self.mechanism is not Mechanism.FENTRY:
            return tuple((symbol, self.mechanism) for symbol in self.symbols)
        first: dict[str, Symbol] = {}
        for symbol in self.symbols:
            if symbol.name not in first or symbol.address < first[symbol.name].address:
                first[symbol.name] = symbol
        return tuple(
            (symbol, Mechanism.FENTRY if symbol is first[symbol.name] else Mechanism.KPROBE)
            for symbol in self.symbols
        )

    @property
    def kind(self) -> str:
        """What `bpf/balloon_compat.h` calls this way of hooking: fentry, kprobe or both."""
        kinds = {mechanism for _, mechanism in self.by_symbol}
        return "both" if len(kinds) > 1 else str(self.mechanism)

    @property
    def where(self) -> str | None:
        """Names of its symbols, or of the tracepoint."""
        if self.point.tracepoint and self.symbols:
            return self.point.tracepoint
        return ", ".join(sorted({symbol.name for symbol in self.symbols})) or None

    @property
    def module(self) -> str | None:
        """The module they lie in; None for the kernel image."""
        return self.symbols[0].module or None if self.symbols else None


@dataclass(frozen=True)
class GuestPlan(Plan[GuestProbe]):
    """What will be attached, and what stands in for what cannot be."""

    driver_module: str  # "" when the driver is built in
    driver_found: bool

    def probe(self, function: Function) -> GuestProbe:
        """The row of `function`; StopIteration if the driver is not one that has it."""
        return next(probe for probe in self.probes if probe.function is function)

    @property
    def patched(self) -> bool:
        """Whether the driver has the page-bitmap patch."""
        return any(probe.point.patched_only for probe in self.probes)

    def with_kprobes(self) -> GuestPlan:
        """The same plan with kprobes throughout; fentry would hold the driver's module in the kernel."""
        return replace(
            self,
            probes=tuple(
                probe if probe.point.tracepoint else replace(probe, mechanism=Mechanism.KPROBE)
                for probe in self.probes
            ),
        )

    def with_allocation(self, symbols: Sequence[Symbol]) -> GuestPlan:
        """The same plan, and the tracepoints that tell what allocating consists of.

        `symbols` are those of `ALLOCATION_SYMBOL_NAMES`.
        """
        return replace(self, probes=(*self.probes, *(_plan_tracepoint(each, symbols) for each in ALLOCATION)))

    @property
    def splits_allocation(self) -> bool:
        """Whether it has any of those."""
        return any(probe.function in ALLOCATION_TRACEPOINTS for probe in self.attachable)

    def without_kprobes(self) -> GuestPlan:
        """The same plan for a kernel without kprobes: of functions of one name, those that fentry reaches."""
        return replace(self, probes=tuple(map(_by_fentry_alone, self.probes)))

    def moved_to(self, symbols: Iterable[Symbol]) -> GuestPlan:
        """The same plan where the driver's module was loaded again, at other addresses.

        MissingProbeError where it holds other functions than before, or is not reached by kprobes alone.
        """
        found = {symbol.name: symbol for symbol in symbols if symbol.module == self.driver_module}
        return replace(self, probes=tuple(_moved(probe, found) for probe in self.probes))

    @property
    def untraced(self) -> tuple[str, ...]:
        """Functions without a symbol."""
        return tuple(probe.name for probe in self.probes if probe.status in (Status.INLINED, Status.ABSENT))

    def stand_ins(self, name: str) -> tuple[str, ...]:
        """Functions without a symbol whose time is taken from that of row `name`."""
        return tuple(
            probe.name
            for probe in self.probes
            if probe.point.stand_in and probe.point.stand_in.symbol == name
            if probe.status is not Status.ATTACH
        )

    @property
    def boundaries(self) -> dict[str, str]:
        """The function whose time is taken for each boundary; part of every recording."""
        rows = [
            ("fill", Function.FILL_BALLOON, Function.UPDATE_BALLOON_SIZE_FUNC),
            ("leak", Function.LEAK_BALLOON, Function.UPDATE_BALLOON_SIZE_FUNC),
            ("send", Function.TELL_HOST, Function.TELL_HOST),
        ]
        if self.patched:
            rows += [
                ("build", Function.SET_PAGE_BITMAP, Function.TELL_HOST),
                ("bitmap send", Function.SEND_RESP_DATA, Function.TELL_HOST),
            ]
        return {
            name: (function if self.probe(function).status is Status.ATTACH else fallback).symbol
            for name, function, fallback in rows
        }


def _by_fentry_alone(probe: GuestProbe) -> GuestProbe:
    reached = tuple(symbol for symbol, mechanism in probe.by_symbol if mechanism is Mechanism.FENTRY)
    if probe.mechanism is not Mechanism.FENTRY or len(reached) == len(probe.symbols):
        return probe
    return replace(
        probe,
        symbols=reached,
        note=f"fentry reaches {len(reached)} of {len(probe.symbols)} functions of this name",
    )


def _moved(probe: GuestProbe, found: Mapping[str, Symbol]) -> GuestProbe:
    if not probe.point.in_driver or probe.status is not Status.ATTACH:
        return probe
    missing = [symbol.name for symbol in probe.symbols if symbol.name not in found]
    if missing:
        raise MissingProbeError(f"{missing[0]} is not in it any more")
    if probe.mechanism is not Mechanism.KPROBE:
        raise MissingProbeError(f"{probe.function.symbol} was reached by fentry")
    return replace(probe, symbols=tuple(found[symbol.name] for symbol in probe.symbols))


def make_plan(
    symbols: Sequence[Symbol],
    layout: Layout,
    *,
    fentry_functions: frozenset[str] = frozenset(),
    feature_bits: Set[int] = frozenset(),
) -> GuestPlan:
    """Fit the table to a kernel and its driver: stock, or with the page-bitmap patch.

    `symbols` are the function symbols of `SYMBOL_NAMES`; `fentry_functions` are the names of driver functions
    that fentry can reach (in BTF, on a kernel and a bcc that support it); `feature_bits` are those that some
    device has.
    """
    usable = [symbol for symbol in symbols if not _NEVER.search(symbol.name)]
    anchor = _driver_anchor([s for s in usable if s.plain_name == "update_balloon_size_func"])
    patched = is_patched(usable, layout)
    probes = tuple(
        _plan_probe(point, _choose_symbols(point, usable, anchor), layout, fentry_functions)
        for point in TABLE
        if patched or not point.patched_only
        if point.feature_bit is None or point.feature_bit in feature_bits
        if not (patched and point.feature_bit == FREE_PAGE_HINT_BIT)  # to that driver it means PAGE_BITMAP
    )
    return GuestPlan(probes, anchor.module if anchor else "", anchor is not None)


def is_patched(symbols: Iterable[Symbol], layout: Layout) -> bool:
    """Whether the driver has the page-bitmap patch: by symbol or member, never by feature bit 3."""
    named = any(symbol.plain_name == Function.SEND_RESP_DATA.symbol for symbol in symbols)
    return named or layout.get("virtio_balloon", "resp_data") is not None


def _driver_anchor(candidates: Iterable[Symbol]) -> Symbol | None:
    """The work function that marks the driver's object: in its own module if there is one, else built in."""
    ranked = sorted(
        candidates, key=lambda s: (s.module != "virtio_balloon", "balloon" not in s.module, s.address)
    )
    return ranked[0] if ranked else None


def _choose_symbols(
    point: ProbePoint, symbols: Sequence[Symbol], anchor: Symbol | None
) -> tuple[Symbol, ...]:
    """The symbols that together are the function: the plain one, else its clones of the best kind."""
    named = [s for s in symbols if s.plain_name in point.candidates]
    if point.in_driver:
        named = [s for s in named if anchor is not None and s.module == anchor.module]
    plain = [s for s in named if not s.suffix]
    if plain:
        return tuple(_nearest(plain, anchor) if point.in_driver else plain)
    for clone in _CLONES:
        clones = [s for s in named if s.suffix.split(".")[0] == clone]
        if clones:
            return tuple(clones)
    return ()


def _nearest(symbols: list[Symbol], anchor: Symbol | None) -> list[Symbol]:
    """Of equal names, the one beside the driver's work function: an object's symbols lie together."""
    if anchor is None or len(symbols) == 1:
        return symbols
    return [min(symbols, key=lambda s: abs(s.address - anchor.address))]


def _plan_probe(
    point: ProbePoint, symbols: tuple[Symbol, ...], layout: Layout, fentry_functions: frozenset[str]
) -> GuestProbe:
    if point.function is Function.CONFIG_SET and layout.get("virtio_balloon", "num_pages") is not None:
        return GuestProbe(point, Status.NOT_NEEDED, note="the driver's own num_pages says the same")
    if not symbols:
        status = Status.INLINED if point.every_driver else Status.ABSENT
        stand_in = f"{point.stand_in.symbol} stands in" if point.stand_in else ""
        return GuestProbe(point, status, note=stand_in)
    plain = all(not symbol.suffix for symbol in symbols)
    unique = len(symbols) == 1 or not point.in_driver
    if not point.in_driver and not any(symbol.address for symbol in symbols):
        # Without addresses only the first of a name can be reached, however it is attached.
        symbols = tuple({symbol.name: symbol for symbol in reversed(symbols)}.values())[::-1]
    by_fentry = unique and plain and all(symbol.name in fentry_functions for symbol in symbols)
    return GuestProbe(
        point,
        Status.ATTACH,
        Mechanism.FENTRY if by_fentry else Mechanism.KPROBE,
        "; ".join(_notes(symbols, plain=plain)),
        symbols,
        arguments_trusted=plain,
    )


def _plan_tracepoint(point: ProbePoint, symbols: Sequence[Symbol]) -> GuestProbe:
    """A kernel may show the tracepoint's symbols only in part."""
    found = next((symbol for symbol in symbols if symbol.name in point.candidates), None)
    if found is None:
        return GuestProbe(point, Status.ABSENT, Mechanism.RAW_TRACEPOINT)
    return GuestProbe(point, Status.ATTACH, Mechanism.RAW_TRACEPOINT, symbols=(found,))


def _notes(symbols: tuple[Symbol, ...], *, plain: bool) -> list[str]:
    notes = []
    if not plain:
        notes.append("a compiler's variant: its arguments are not trusted")
    if any(symbol.suffix.startswith("part") for symbol in symbols):
        notes.append("only part of the function, its times are lower bounds")
    if len(symbols) > 1:
        notes.append(f"{len(symbols)} functions of this name, all attached")
    return notes
