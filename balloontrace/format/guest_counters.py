# SPDX-License-Identifier: GPL-2.0-or-later
"""The sums that the guest's BPF program keeps, as the recorder reads and a recording keeps them."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from balloontrace.format.guest_layout import (
    DEVICE_STATE_BYTES,
    DEVICES,
    FUNCTION_COUNTER_BYTES,
    FUNCTION_COUNTER_FIELDS,
    FUNCTIONS,
)
from balloontrace.format.vocabulary import Function

COUNTERS_BYTES = FUNCTIONS * FUNCTION_COUNTER_BYTES + DEVICES * DEVICE_STATE_BYTES
_FUNCTION_COUNTERS = struct.Struct(f"={len(FUNCTION_COUNTER_FIELDS)}Q")
_DEVICE_STATE = struct.Struct("=IIQQII")


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


def parse_counters(raw: bytes) -> Counters:
    """Decode `struct bt_counters` of this machine's byte order."""
    rows = list(_FUNCTION_COUNTERS.iter_unpack(raw[: FUNCTIONS * FUNCTION_COUNTER_BYTES]))
    functions = {function: FunctionCounts(*rows[function]) for function in Function}
    devices = tuple(
        DeviceState(target, actual, operations, changed_ns, bool(moving))
        for target, actual, operations, changed_ns, moving, _ in _DEVICE_STATE.iter_unpack(
            raw[FUNCTIONS * FUNCTION_COUNTER_BYTES : COUNTERS_BYTES]
        )
    )
    return Counters(functions, devices)
