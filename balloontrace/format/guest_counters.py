# SPDX-License-Identifier: GPL-2.0-or-later
"""The sums that the guest's BPF program keeps, as the recorder reads and a recording keeps them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from balloontrace.format.guest_layout import COUNTERS, DEVICE_STATE, FUNCTION_COUNTERS
from balloontrace.format.struct_layout import sums_since
from balloontrace.format.vocabulary import Function


@dataclass(frozen=True)
class FunctionCounts:
    """`struct bt_function_counters`: sums since the programs were attached."""

    entries: int
    returns: int
    unmatched_returns: int
    lost: int
    no_state: int
    overwritten: int
    duration_ns: int
    pages: int
    summed: int = 0
    summed_ns: int = 0
    summed_pages: int = 0


@dataclass(frozen=True)
class DeviceState:
    """`struct bt_device_state`: where a device stands."""

    target_pages: int
    actual_pages: int
    operations: int
    changed_ns: int
    moving: bool


@dataclass(frozen=True)
class Counters:
    """One look at the shared counters."""

    functions: dict[Function, FunctionCounts]
    devices: tuple[DeviceState, ...]

    @property
    def operations(self) -> int:
        """Operations that have reached their target, over all devices."""
        return sum(device.operations for device in self.devices)


_RETURNS_BYTES = FUNCTION_COUNTERS.offsets["returns"]


def raw_returns(raw: bytes, functions: Iterable[Function]) -> list[bytes]:
    """How often these functions had returned, not decoded: to see whether they have since."""
    starts = (function * FUNCTION_COUNTERS.size_bytes + _RETURNS_BYTES for function in functions)
    return [raw[start : start + 8] for start in starts]


def counters_since(raw: bytes, before: bytes) -> bytes:
    """`struct bt_counters` with the sums that came after an earlier look; devices stand as they do."""
    at = COUNTERS.offsets["devices"]
    return sums_since(raw[:at], before[:at]) + raw[at:]


def parse_counters(raw: bytes) -> Counters:
    """Decode `struct bt_counters` of this machine's byte order."""
    devices_at = COUNTERS.offsets["devices"]
    rows = list(FUNCTION_COUNTERS.decoder.iter_unpack(raw[:devices_at]))
    states = DEVICE_STATE.decoder.iter_unpack(raw[devices_at : COUNTERS.size_bytes])
    return Counters(
        {function: FunctionCounts(*rows[function]) for function in Function},
        tuple(
            DeviceState(target, actual, operations, changed_ns, bool(moving))
            for target, actual, operations, changed_ns, moving in states
        ),
    )
