# SPDX-License-Identifier: GPL-2.0-or-later
"""What a side of the boundary has to say for itself: the steps that `trace/attach` puts in order."""

from __future__ import annotations

import abc
from contextlib import AbstractContextManager
from typing import Any, Generic, Protocol, TypeVar

from balloontrace.trace.attached_programs import AttachedPrograms
from balloontrace.trace.machine_checks import Diagnosis
from balloontrace.trace.options import TraceOptions
from balloontrace.trace.plan import Plan, PlannedProbe, Point
from balloontrace.trace.session import RecordingSession

_Plan = TypeVar("_Plan", bound=Plan[PlannedProbe[Point]])
_Diagnosis = TypeVar("_Diagnosis", bound=Diagnosis[Any])


class Attached(Protocol):
    """A side with its probes attached."""

    @property
    def collector(self) -> AttachedPrograms[Any]:
        """What the programs yield."""

    @property
    def target(self) -> str:
        """What they are attached to, for the end of a sentence; empty where there is but one."""

    def open_session(self, output_fd: int, options: TraceOptions) -> RecordingSession[Any]:
        """A recording of it into `output_fd`."""


_Attached = TypeVar("_Attached", bound=Attached, covariant=True)


class TracedSide(abc.ABC, Generic[_Diagnosis, _Plan, _Attached]):
    """One side, to be traced as `options` ask."""

    no_way: str  # said of required probes that cannot be attached

    def __init__(self, options: TraceOptions) -> None:
        self.options = options

    @abc.abstractmethod
    def check_options(self) -> None:
        """UsageError for what is asked and cannot be had on this side."""

    @abc.abstractmethod
    def diagnose(self) -> _Diagnosis:
        """Look at this system; never raises for something it could report."""

    def choose_target(self, diagnosis: _Diagnosis) -> None:
        """Choose what is traced. UsageError where that is not clear."""

    @abc.abstractmethod
    def choose_plan(self, diagnosis: _Diagnosis) -> _Plan:
        """The plan, by the way of attaching that was asked for."""

    @abc.abstractmethod
    def attached(self, diagnosis: _Diagnosis, plan: _Plan) -> AbstractContextManager[_Attached]:
        """Attach it; detached at the end of the context."""
