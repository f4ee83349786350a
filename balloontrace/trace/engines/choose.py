# SPDX-License-Identifier: GPL-2.0-or-later
"""Which engine runs the programs: all take one request and give one answer."""

from __future__ import annotations

import enum

from balloontrace.trace.engines import prebuilt
from balloontrace.trace.engines.request import Loaded, LoadRequest


class Engine(enum.StrEnum):
    """The value is the word of `--engine`, of a recording and of a report; the cheapest comes first."""

    PREBUILT = "prebuilt"  # compiled when this package was built, loaded by libbpf
    BCC = "bcc"  # compiled on the machine


def engines_of(word: str) -> tuple[Engine, ...]:
    """Those that `--engine` allows, in the order in which they are tried."""
    return tuple(Engine) if word == "auto" else (Engine(word),)


def load(request: LoadRequest, engine: Engine) -> Loaded:
    """Load and attach. Raises CannotTraceError or AttachError as the engines do."""
    if engine is Engine.PREBUILT:
        return prebuilt.load(request)
    from balloontrace.trace.engines import bcc

    return bcc.load(request)
