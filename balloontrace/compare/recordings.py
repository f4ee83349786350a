# SPDX-License-Identifier: GPL-2.0-or-later
"""Recordings that belong together, analysed: one side of a comparison, or the rounds of `measure`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from balloontrace.results.report import Report


@dataclass(frozen=True, slots=True)
class Recordings:
    """Those of guests, each with its host's where there is one; and what their folder says of machines."""

    given: str
    reports: tuple[Report, ...]
    provenance: Mapping[str, Any] | None = None
