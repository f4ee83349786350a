# SPDX-License-Identifier: GPL-2.0-or-later
"""Loads objects that were compiled when this package was built: no compiler, no headers, no bcc.

What bcc is told by -D is told here too: offsets and the like as constants, kinds of hooks by which programs
are loaded, sizes of rings as sizes of maps.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from itertools import chain

from balloontrace.console.stderr import note
from balloontrace.errors import CannotTraceError
from balloontrace.system.attach_kprobe import attach_kprobe
from balloontrace.system.kernel import ROOT, is_confidential
from balloontrace.system.libbpf import BtfError, open_btf
from balloontrace.system.own_memory import read_peak_memory_bytes
from balloontrace.trace.engines.causes import failure
from balloontrace.trace.engines.libbpf import BpfObject, BpfObjectError
from balloontrace.trace.engines.library_pages import forget_library_pages
from balloontrace.trace.engines.request import (
    PAGE_BYTES,
    PROCESSES,
    SAMPLED,
    AttachError,
    Attachment,
    Loaded,
    LoadRequest,
)
from balloontrace.trace.engines.shipped import read_object

NAME = "prebuilt"
_RINGS = {"SPAN_RING_PAGES": "spans", "PAYLOAD_RING_PAGES": "payloads", "BATCH_RING_PAGES": "batches"}
_RECORDS = frozenset({"SPAN_RING_PAGES", "BATCH_RING_PAGES"})  # without one of them, sums stand in
_READ_TYPE = "READ_TYPE"
_READ_AS = "timespec64"  # begins with 8 bytes of numbers, and every kernel has it
_KINDS = {PROCESSES: "-all", SAMPLED: "-sampled"}  # objects of their own
_OPTIONAL_MAPS = ("payloads", "waiting")


def object_name(request: LoadRequest) -> str:
    """Which object a request takes."""
    kind = next((word for name, word in _KINDS.items() if name in request.definitions), "")
    live = "" if _RECORDS & request.definitions.keys() else "-live"
    typed = "-typed" if is_confidential() else ""
    return f"{request.source.removesuffix('.bpf.c')}{kind}{live}{typed}"


def find() -> str:
    """What this engine has here, in words. Raises CannotTraceError when something is missing."""
    with _opened("guest", _read("guest")) as program_object:
        return f"BPF programs compiled for {platform.machine()}, libbpf {program_object.version}"


def load(request: LoadRequest) -> Loaded:
    """Load and attach what `request` asks for, in this process.

    Raises CannotTraceError when there is no object or no libbpf for it, or when the kernel takes no part of
    it, AttachError when it refuses a required probe.
    """
    started_ns, started_cpu_ns = time.monotonic_ns(), time.process_time_ns()
    name = object_name(request)
    content = _read(name)
    failures: dict[str, str] = {}
    own = _module_functions(request.attachments)
    while True:
        with _opened(name, content) as program_object:
            wanted = _targeted(program_object, request, own, failures)
            try:
                program_object.load()
            except BpfObjectError as error:
                # One that is refused takes all with it: without it the others may be taken.
                refused = program_object.refused_programs()
                messages = "".join(program_object.messages)
                for attachment in wanted:
                    if attachment.program in refused:
                        _refuse(attachment, f"{attachment.program} was not loaded", failures, messages)
                if not refused:
                    raise failure(CannotTraceError, f"cannot load: {error}", messages) from error
                continue
            loaded = _attach(program_object, request, wanted, failures, started_ns, started_cpu_ns)
            forget_library_pages()
            return loaded


def _read(name: str) -> bytes:
    content = read_object(platform.machine(), name)
    if content is None:
        raise CannotTraceError(f"this package has no BPF programs compiled for {platform.machine()}")
    return content


def _opened(name: str, content: bytes) -> BpfObject:
    try:
        return BpfObject(name, content)
    except BpfObjectError as error:
        raise CannotTraceError(str(error)) from error


def _targeted(
    program_object: BpfObject,
    request: LoadRequest,
    own: Mapping[tuple[str, str], int],
    failures: dict[str, str],
) -> list[Attachment]:
    """Prepare the object; returns what it will attach: all but what has failed or has no target here."""
    program_object.set_constants(_constants(request.definitions))
    for size, name in _RINGS.items():
        if size in request.definitions:
            program_object.set_max_entries(name, int(request.definitions[size]) * PAGE_BYTES)
    if PROCESSES in request.definitions:
        program_object.set_max_entries("processes", int(request.definitions[PROCESSES]))
    for name in _OPTIONAL_MAPS:
        if name not in request.maps and program_object.has_map(name):
            program_object.leave_out_map(name)
    wanted = []
    for attachment in request.attachments:
        if attachment.function in failures:
            continue
        try:
            if attachment.mechanism == "fentry":
                _set_target(program_object, attachment, own)
        except BpfObjectError as error:
            _refuse(attachment, f"{attachment.symbol} has no fentry: {error}", failures)
        else:
            wanted.append(attachment)
    wanted = [attachment for attachment in wanted if attachment.function not in failures]
    program_object.load_only({attachment.program for attachment in wanted})
    return wanted


def _module_functions(attachments: Iterable[Attachment]) -> dict[tuple[str, str], int]:
    """By module and function, its number in the module's type information; for fentry only."""
    wanted: dict[str, set[str]] = {}
    for attachment in attachments:
        if attachment.mechanism == "fentry" and attachment.module:
            wanted.setdefault(attachment.module, set()).add(attachment.symbol)
    found = {}
    for module, functions in wanted.items():
        with suppress(BtfError), open_btf(ROOT, module) as btf:
            numbers = {function: btf.own_function_id(function) for function in functions}
            found.update({(module, name): number for name, number in numbers.items() if number})
    return found


def _set_target(
    program_object: BpfObject, attachment: Attachment, own: Mapping[tuple[str, str], int]
) -> None:
    number = own.get((attachment.module, attachment.symbol))
    if number is not None:
        program_object.set_module_target(attachment.program, attachment.module, number)
    elif attachment.module:
        raise BpfObjectError(f"no type information on it in module {attachment.module}")
    else:
        program_object.set_target(attachment.program, attachment.symbol)


def _constants(definitions: Mapping[str, str | int]) -> dict[str, int]:
    """What an object leaves open; the kinds of hooks are chosen by loading programs instead."""
    typed = {_READ_TYPE: _find_read_type()} if is_confidential() else {}
    numbers = {name: value for name, value in definitions.items() if isinstance(value, int)}
    return {"PAYLOAD_RING_PAGES": 0, **numbers, **typed}


def _find_read_type() -> int:
    """The number in vmlinux's type information of what `READ_KERNEL` takes everything for."""
    try:
        with open_btf(ROOT) as btf:
            number = btf.struct_id(_READ_AS)
    except BtfError as error:
        raise CannotTraceError(str(error)) from error
    if number is None:
        raise CannotTraceError(f"the kernel's type information has no struct {_READ_AS}")
    return number


def _refuse(attachment: Attachment, sentence: str, failures: dict[str, str], messages: str = "") -> None:
    """Note what an optional probe failed of; AttachError for a required one."""
    error = failure(AttachError, sentence, messages)
    if attachment.required:
        raise error
    failures[attachment.function] = str(error)


def _attach(
    program_object: BpfObject,
    request: LoadRequest,
    wanted: list[Attachment],
    failures: dict[str, str],
    started_ns: int,
    started_cpu_ns: int,
) -> Loaded:
    maps: dict[str, int] = {}
    programs: dict[str, int] = {}
    links: dict[str, list[int]] = {}  # by function
    try:
        maps.update((name, program_object.map_fd(name)) for name in request.maps)
        for attachment in wanted:
            if attachment.function in failures:
                continue
            try:
                link = _link(program_object, attachment)
            except (BpfObjectError, OSError) as error:
                reason = error.strerror if isinstance(error, OSError) else str(error)
                _refuse(attachment, f"{attachment.symbol} is refused: {reason}", failures)
                # An entry tells nothing without its return, nor a return without its entry.
                _close(links.pop(attachment.function, ()))
            else:
                links.setdefault(attachment.function, []).append(link)
        kept = (attachment.program for attachment in wanted if attachment.function in links)
        programs.update((name, program_object.program_fd(name)) for name in dict.fromkeys(kept))
    except BaseException:
        _close((*maps.values(), *programs.values(), *chain(*links.values())))
        raise
    if failures:
        note(program_object.messages.copy)
    return Loaded(
        maps=maps,
        programs=programs,
        links=[*chain(*links.values())],
        failures=failures,
        engine=NAME,
        engine_version=f"libbpf {program_object.version}",
        setup_cpu_ns=time.process_time_ns() - started_cpu_ns,
        setup_peak_memory_bytes=read_peak_memory_bytes(),
        setup_wall_ns=time.monotonic_ns() - started_ns,
    )


def _close(fds: Iterable[int]) -> None:
    for fd in fds:
        os.close(fd)


def _link(program_object: BpfObject, attachment: Attachment) -> int:
    """Attach one program; the descriptor it hangs on. Raises OSError or BpfObjectError."""
    program = attachment.program
    category, _, event = attachment.symbol.partition(":")
    match attachment.mechanism:
        case "fentry":
            return program_object.attach_tracing(program)
        case "raw_tracepoint":
            return program_object.attach_raw_tracepoint(program, event)
        case "tracepoint":
            return program_object.attach_tracepoint(program, category, event)
    fd = program_object.program_fd(program)
    try:
        name = "" if attachment.address else attachment.symbol
        return attach_kprobe(fd, attachment.address, returns=attachment.returns, name=name)
    finally:
        with suppress(OSError):
            os.close(fd)
