# SPDX-License-Identifier: GPL-2.0-or-later
"""A plan of probes: what both sides' plans have in common, and how it is described."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from balloontrace.format.vocabulary import Status
from balloontrace.system.kernel import Symbol
from balloontrace.trace.engines.request import Attachment
from balloontrace.trace.mechanism import Mechanism


class Point(Protocol):
    """One row of a side's table: a function worth tracing."""

    @property
    def name(self) -> str:
        """What its programs are called after."""

    @property
    def stage(self) -> str:
        """The stage it tells about."""

    @property
    def yields(self) -> str:
        """What it tells."""

    @property
    def required(self) -> bool:
        """Whether a trace without it is of no use."""

    def ends(self, mechanism: Mechanism) -> tuple[bool, ...]:
        """Which ends of the function get a program, return (True) before entry (False)."""


_Point = TypeVar("_Point", bound=Point, covariant=True)
_Probe = TypeVar("_Probe", bound="PlannedProbe[Point]", covariant=True)


@dataclass(frozen=True)
class PlannedProbe(abc.ABC, Generic[_Point]):
    """A row of the table as it fits this kernel."""

    point: _Point
    status: Status
    mechanism: Mechanism = Mechanism.KPROBE
    note: str = ""

    @property
    def name(self) -> str:
        """The name of the row."""
        return self.point.name

    @property
    @abc.abstractmethod
    def by_symbol(self) -> tuple[tuple[Symbol, Mechanism], ...]:
        """Each symbol that is attached to, with its mechanism."""

    @property
    def mechanisms(self) -> frozenset[Mechanism]:
        """All of them: of functions of one name each may have its own."""
        return frozenset(mechanism for _, mechanism in self.by_symbol)

    @property
    @abc.abstractmethod
    def where(self) -> str | None:
        """What is attached to, in words of the kernel."""

    @property
    @abc.abstractmethod
    def module(self) -> str | None:
        """The module it lies in; None for the kernel image."""

    def target(self, symbol: Symbol, *, returns: bool) -> str:  # noqa: ARG002  (not every side has two)
        """What the program at one end is attached to."""
        return symbol.name

    @property
    def spelled_out(self) -> str:
        """The kernel's words for what is attached, e.g. `kprobe+kretprobe`, by how much it is used."""
        kinds = dict.fromkeys(mechanism for _, mechanism in self.by_symbol)
        return ", ".join(
            "+".join(kind.program(returns=returns) for returns in reversed(self.point.ends(kind)))
            for kind in kinds
        )

    @property
    def attachments(self) -> list[Attachment]:
        """What an engine is asked to attach."""
        return [
            Attachment(
                program=f"{mechanism.program(returns=returns)}_{self.name}",
                function=self.name,
                returns=returns,
                mechanism=str(mechanism),
                symbol=self.target(symbol, returns=returns),
                address=symbol.address,
                module=symbol.module,
                required=self.point.required,
            )
            for symbol, mechanism in self.by_symbol
            # Returns first: a call under way while probes are attached then counts as unmatched, not as lost.
            for returns in self.point.ends(mechanism)
        ]


@dataclass(frozen=True)
class Plan(Generic[_Probe]):
    """What will be attached, row by row."""

    probes: tuple[_Probe, ...]

    @property
    def attachable(self) -> tuple[_Probe, ...]:
        """Rows that will be attached."""
        return tuple(probe for probe in self.probes if probe.status is Status.ATTACH)

    @property
    def missing_required(self) -> tuple[_Probe, ...]:
        """Required rows that cannot be attached."""
        return tuple(
            probe for probe in self.probes if probe.point.required and probe.status is not Status.ATTACH
        )

    @property
    def attachments(self) -> tuple[Attachment, ...]:
        """What an engine is asked to attach, in this order."""
        return tuple(attachment for probe in self.attachable for attachment in probe.attachments)

    @property
    def untraced(self) -> tuple[str, ...]:
        """Functions that every recording would like to have and this kernel does not show."""
        return ()

    def stand_ins(self, name: str) -> tuple[str, ...]:  # noqa: ARG002  (only the guest's side has some)
        """Functions without a symbol whose time is taken from that of row `name`."""
        return ()

    def describe(self, failures: Mapping[str, str] | None = None) -> list[dict[str, object]]:
        """The rows as `doctor --format json` shows them, or, given `failures`, as a recording keeps them.

        `failures` maps a row's name to the kernel's reason for refusing it; whatever is not in it was
        attached.
        """
        return [self._describe(probe, failures) for probe in self.probes]

    def _describe(self, probe: PlannedProbe[Point], failures: Mapping[str, str] | None) -> dict[str, object]:
        attaches = probe.status is Status.ATTACH
        status, note = probe.status, probe.note
        if failures is not None and attaches:
            failure = failures.get(probe.name)
            status, note = (Status.ATTACHED, note) if failure is None else (Status.FAILED, failure)
        return {
            "function": probe.name,
            "symbol": probe.where,
            "module": probe.module,
            "mechanism": probe.spelled_out if attaches else None,
            "stage": probe.point.stage,
            "status": str(status),
            "stands_in_for": ", ".join(self.stand_ins(probe.name)) or None,
            "required": probe.point.required,
            "yields": probe.point.yields,
            "note": note or None,
        }
