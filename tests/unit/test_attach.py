# SPDX-License-Identifier: GPL-2.0-or-later
"""The way to attached probes that both sides share: which plan is attached, and what is said of it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from balloontrace.errors import CannotTraceError, MissingProbeError, UsageError
from balloontrace.system.kernel import Symbol
from balloontrace.trace.attach import attached_line, choose_side
from balloontrace.trace.attached_programs import attach_first
from balloontrace.trace.engines.choose import Engine
from balloontrace.trace.engines.request import AttachError, Loaded, LoadRequest
from balloontrace.trace.host.probes import SYMBOL_NAMES, HostPlan, make_host_plan
from balloontrace.trace.options import TraceOptions

SYMBOLS = [Symbol(name, 0x81000000, "") for name in SYMBOL_NAMES if "arm64" not in name]
PLAN = make_host_plan(SYMBOLS, fentry_functions=frozenset(SYMBOL_NAMES))


def request(plan: HostPlan) -> LoadRequest:
    return LoadRequest("host.bpf.c", {}, plan.attachments, ())


def loaded(**failures: str) -> Loaded:
    return Loaded({}, {}, [], failures, "bcc", "0.31.0", 1, 1, 1)


@pytest.mark.parametrize("refused", [(), ("fentry",), ("fentry", "kprobe")])
def test_what_the_kernel_refuses_is_tried_another_way(
    monkeypatch: pytest.MonkeyPatch, refused: tuple[str, ...]
) -> None:
    ways: list[str] = []

    def load(request: LoadRequest, engine: Engine) -> Loaded:  # noqa: ARG001
        ways.append(next(each.mechanism for each in request.attachments if each.function == "madvise"))
        if ways[-1] in refused:
            raise AttachError(f"no {ways[-1]}")
        return loaded()

    monkeypatch.setattr("balloontrace.trace.attached_programs.load", load)
    plans = (PLAN, PLAN.with_kprobes(), PLAN.with_tracepoints())
    plan, _ = attach_first((Engine.BCC,), plans, request)
    assert plan is plans[len(refused)]
    assert tuple(ways[:-1]) == refused


def test_a_plan_refused_in_every_way_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[LoadRequest] = []

    def load(request: LoadRequest, engine: Engine) -> Loaded:  # noqa: ARG001
        tried.append(request)
        raise AttachError("it is refused")

    monkeypatch.setattr("balloontrace.trace.attached_programs.load", load)
    plan = PLAN.with_kprobes()
    with pytest.raises(MissingProbeError, match="a required probe was refused: it is refused"):
        attach_first((Engine.BCC,), (plan, plan.with_kprobes()), request)
    assert len(tried) == 1


def test_what_one_engine_cannot_do_the_next_one_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[Engine] = []
    refused: list[Engine] = []

    def refuse(request: LoadRequest, engine: Engine) -> Loaded:  # noqa: ARG001
        refused.append(engine)
        raise CannotTraceError(f"{engine} takes none of it")

    def load(request: LoadRequest, engine: Engine) -> Loaded:  # noqa: ARG001
        tried.append(engine)
        if engine is Engine.PREBUILT:
            raise CannotTraceError("it takes none of it")
        return loaded()

    monkeypatch.setattr("balloontrace.trace.attached_programs.load", load)
    attach_first(tuple(Engine), (PLAN.with_kprobes(),), request)
    assert tried == [Engine.PREBUILT, Engine.BCC]
    monkeypatch.setattr("balloontrace.trace.attached_programs.load", refuse)
    with pytest.raises(CannotTraceError, match="prebuilt takes none of it"):
        attach_first(tuple(Engine), (PLAN, PLAN.with_kprobes()), request)
    assert refused == list(Engine)
    monkeypatch.setattr("balloontrace.trace.attached_programs.load", load)
    with pytest.raises(CannotTraceError, match="it takes none of it"):
        attach_first((Engine.PREBUILT,), (PLAN.with_kprobes(),), request)


def test_what_was_refused_is_not_counted_as_attached() -> None:
    collector = SimpleNamespace(plan=PLAN, loaded=loaded(split_huge_pmd="no such function"))
    attached = cast(Any, SimpleNamespace(collector=collector, target=" to process 7 (vmm)"))
    attachable = len(PLAN.attachable)
    assert attached_line(attached) == (
        f"probes attached ({attachable - 1} functions; split_huge_pmd: no such function) to process 7 (vmm)"
    )


@pytest.mark.parametrize(
    "options",
    [
        TraceOptions(side="guest", pid=1),
        TraceOptions(side="guest", count_freed=True),
        TraceOptions(side="guest", sample=True),
        TraceOptions(side="guest", time_faults=True),
        TraceOptions(side="host", time_faults=True),
        TraceOptions(side="guest", count_discards=True),
        TraceOptions(side="host", count_discards=True),
        TraceOptions(side="guest", attach="tracepoint"),
        TraceOptions(side="host", operations=1),
        TraceOptions(side="host", capture=True),
        TraceOptions(side="host", sample=True, count_freed=True),
        TraceOptions(side="host", sample=True, attach="kprobe"),
        TraceOptions(side="host", sample=True, engine="bcc"),
        TraceOptions(side="host", offsets={"virtqueue.index": 8}),
    ],
)
def test_what_a_side_cannot_do_is_refused_before_anything_is_looked_at(options: TraceOptions) -> None:
    with pytest.raises(UsageError):
        choose_side(options)
