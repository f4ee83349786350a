# SPDX-License-Identifier: GPL-2.0-or-later
"""The one line of a compiler's, the verifier's or libbpf's messages that says why something failed."""

from __future__ import annotations

import re

from balloontrace.console.stderr import note
from balloontrace.errors import BalloontraceError

# Of the verifier's log: instructions, states, source lines, and what it did in all.
_VERIFIER_TRACE = re.compile(
    r"\d+: |from \d+ to \d+|; |R\d+(_w)?=|processed \d+ insns|verification time|stack depth|"
    r"last_idx |regs=|parent |mark_precise|-- |HINT: |func#\d+ |max_states_per_insn|libbpf: -- |arg#\d+ "
)


def failure(kind: type[BalloontraceError], sentence: str, messages: str) -> BalloontraceError:
    """An error of one sentence, with the cause that the messages tell; `-v` shows all of them."""
    note(messages.splitlines)
    cause = find_cause(messages)
    return kind(" ".join(f"{sentence} ({cause})".split()) if cause else " ".join(sentence.split()))


def find_cause(messages: str) -> str | None:
    """The line that says why: the compiler's first error, else what the verifier said last, else the last.

    The verifier writes each instruction and the state before it, then its objection, then statistics.
    """
    lines = [line.strip() for line in messages.splitlines() if line.strip()]
    errors = [line for line in lines if re.search(r"\berror: ", line)]
    if errors:
        return errors[0]
    said = [line for line in lines if not _VERIFIER_TRACE.match(line)]
    return said[-1] if said else None
