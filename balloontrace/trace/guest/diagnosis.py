# SPDX-License-Identifier: GPL-2.0-or-later
"""Can a balloon be traced here: what is found, what is missing, and how to fix it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from balloontrace.format.balloon_size import BalloonSize, kernel_page_in_pages
from balloontrace.format.vocabulary import (
    FREE_PAGE_HINT_BIT,
    DriverKind,
    Function,
    untraced_features,
)
from balloontrace.system import kernel
from balloontrace.system.kernel import BalloonDevice, Layout
from balloontrace.system.read_balloon_size import fill_in_size, read_balloon_sizes
from balloontrace.trace.guest.plan import GuestPlan, make_plan
from balloontrace.trace.guest.probes import SYMBOL_NAMES
from balloontrace.trace.machine_checks import (
    Diagnosis,
    Finding,
    State,
    can_search_modules,
    check_firing,
    look_at_machine,
)
from balloontrace.trace.mechanism import Mechanism
from balloontrace.trace.probe_trial import Trial
from balloontrace.units import format_standing

_NEEDED_OF_A_SEND = {"pages": ("virtio_balloon", "num_pfns"), "queue": ("virtqueue", "index")}


@dataclass(frozen=True)
class GuestDiagnosis(Diagnosis[GuestPlan]):
    """What there is to trace in a guest."""

    devices: tuple[BalloonDevice, ...]
    driver_kind: DriverKind
    layout: Layout
    balloons: tuple[BalloonSize, ...] = ()
    virtio_mem: tuple[str, ...] = ()  # devices that plug and unplug memory

    @property
    def is_planned(self) -> bool:
        """Whether there is a driver to plan for."""
        return self.plan.driver_found

    def describe(self) -> dict[str, object]:
        """What `doctor --format json` shows of this side alone."""
        return {
            "driver": {"kind": str(self.driver_kind), "module": self.plan.driver_module or None},
            "devices": [
                {
                    "name": device.name,
                    "driver": device.driver,
                    "features": list(device.feature_names),
                    "feature_bits": list(device.feature_bits),
                }
                for device in self.devices
            ],
            "virtio_mem": list(self.virtio_mem),
            "balloons": [asdict(balloon) for balloon in self.balloons],
            "layout": {"source": self.layout.source, "offsets_bytes": self.layout.offsets},
            "boundaries": self.plan.boundaries,
        }


def diagnose(
    root: Path = kernel.ROOT,
    *,
    offsets: Mapping[str, int] | None = None,
    engine: str = "auto",
    trial: Callable[[Path], Trial] | None = None,
) -> GuestDiagnosis:
    """Look at this system; never raises for something it could report.

    `offsets` are structure offsets that the user knows, by `struct.member`; `engine` and `trial` as for
    `look_at_machine`.
    """
    machine = look_at_machine(SYMBOL_NAMES, root, engine, trial)
    devices = kernel.read_balloon_devices(root)
    virtio_mem = kernel.read_virtio_mem_devices(root)
    feature_bits = {bit for device in devices if device.driver for bit in device.feature_bits}
    draft = make_plan(machine.symbols, Layout(), feature_bits=feature_bits)
    # Type information takes longest to say that something is not there.
    wanted = {name for probe in draft.probes for name in probe.point.candidates}
    names = {symbol.plain_name for symbol in machine.symbols} & wanted
    layout = kernel.read_layout(draft.driver_module, names, root).overruled(offsets or {})
    fentry = machine.can_fentry and (not draft.driver_module or can_search_modules(root))
    plan = make_plan(
        machine.symbols,
        layout,
        fentry_functions=layout.functions if fentry else frozenset(),
        feature_bits=feature_bits,
    )
    if Mechanism.KPROBE in machine.firing.unusable:
        plan = plan.without_kprobes()
    kind = _driver_kind(plan)
    sizes = read_balloon_sizes([device.name for device in devices], root)
    balloons = fill_in_size(sizes, kernel.read_vmstat(root), os.sysconf("SC_PAGE_SIZE"))
    findings = (
        *machine.findings,
        check_firing(machine.firing, plan.attachable),
        _check_btf(layout),
        _check_device(devices),
        _check_size(balloons),
        _check_driver(plan, kind),
        _check_bit_3(kind, devices),
        _check_untraced(plan, devices),
        _check_virtio_mem(virtio_mem),
        *_check_plan(plan),
    )
    found = tuple(finding for finding in findings if finding)
    return GuestDiagnosis(
        found, plan, machine.firing, machine.engines, devices, kind, layout, balloons, virtio_mem
    )


def _driver_kind(plan: GuestPlan) -> DriverKind:
    if not plan.driver_found:
        return DriverKind.NONE
    return DriverKind.PATCHED if plan.patched else DriverKind.STOCK


def _check_btf(layout: Layout) -> Finding:
    members = {what: member for what, member in _NEEDED_OF_A_SEND.items() if layout.get(*member) is None}
    if not members:
        found = (
            f"structure offsets: {layout.source}" if layout.problem else "BTF of the kernel and the driver"
        )
        return Finding("btf", State.OK, found)
    names = " and ".join(map(".".join, members.values()))
    why = layout.problem or f"the type information does not have {names}"
    return Finding("btf", State.WARNING, f"{' and '.join(members)} of a send are not measured: {why}")


def _check_device(devices: tuple[BalloonDevice, ...]) -> Finding:
    if not devices:
        return Finding(
            "device", State.PROBLEM, "this machine has no virtio balloon",
            "give the VM one, e.g. QEMU's -device virtio-balloon-pci",
        )  # fmt: skip
    text = "; ".join(
        f"{device.name} ({device.driver or 'no driver'}): {', '.join(device.feature_names) or 'no features'}"
        for device in devices
    )
    return Finding("device", State.OK, text)


def _check_size(balloons: Iterable[BalloonSize]) -> Finding | None:
    unit_pages = kernel_page_in_pages(os.sysconf("SC_PAGE_SIZE")) or 1
    text = "; ".join(
        f"{each.device}: {format_standing(each.size_pages, each.target_pages, unit_pages)}"
        f" (from {each.source or 'nowhere: it cannot be read here'})"
        for each in balloons
    )
    return Finding("size", State.OK, text) if text else None


def _check_driver(plan: GuestPlan, kind: DriverKind) -> Finding:
    if kind is DriverKind.NONE:
        return Finding("driver", State.PROBLEM, "the balloon driver is not loaded", "modprobe virtio_balloon")
    place = f"module {plan.driver_module}" if plan.driver_module else "built in"
    return Finding("driver", State.OK, f"{kind} driver, {place}")


def _check_bit_3(kind: DriverKind, devices: tuple[BalloonDevice, ...]) -> Finding | None:
    """The page-bitmap patch calls bit 3 its own; mainline, and every device that follows it, does not."""
    if kind is not DriverKind.PATCHED or not any(
        FREE_PAGE_HINT_BIT in device.feature_bits for device in devices
    ):
        return None
    return Finding(
        "bit 3", State.WARNING,
        "the driver takes feature bit 3 for PAGE_BITMAP; a device that means FREE_PAGE_HINT by it discards "
        "pages which the guest still uses",
        "make sure that the VMM has the page-bitmap patch too, or turn free-page-hint off",
    )  # fmt: skip


def _check_untraced(plan: GuestPlan, devices: tuple[BalloonDevice, ...]) -> Finding | None:
    """Other ways in which pages go to the host, which no probe shows."""
    traced = {probe.function for probe in plan.attachable}
    found = [
        f"{word} of {device.name} ({feature})"
        for device in devices
        if device.driver is not None
        for word, feature in untraced_features(device.feature_bits, traced, patched=plan.patched)
    ]
    return Finding("untraced", State.WARNING, f"not traced: {', '.join(found)}") if found else None


def _check_virtio_mem(devices: tuple[str, ...]) -> Finding | None:
    """Memory that comes and goes with no balloon."""
    if not devices:
        return None
    return Finding(
        "virtio-mem", State.WARNING, f"not traced: memory plugged and unplugged by {' and '.join(devices)}"
    )


def _check_plan(plan: GuestPlan) -> tuple[Finding, ...]:
    if not plan.driver_found:
        return ()
    missing = plan.missing_required
    if missing:
        names = ", ".join(probe.function.symbol for probe in missing)
        return (
            Finding(
                "probes", State.WARNING, f"required probe points are missing: {names}",
                "record --missing-probes warn traces what is left",
            ),
        )  # fmt: skip
    if plan.probe(Function.CONFIG_GET) not in plan.attachable:
        return (
            Finding(
                "probes", State.WARNING, "the target is not measured: neither vp_get nor vm_get is a symbol"
            ),
        )
    return (Finding("probes", State.OK, f"{len(plan.attachable)} probe points"),)
