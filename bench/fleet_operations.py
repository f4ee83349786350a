# SPDX-License-Identifier: GPL-2.0-or-later
"""Batches of made-up operations: of 100 VMs of a host on a day, with the stages of a pair's report."""

from __future__ import annotations

from datetime import date, timedelta
from functools import cache

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from balloontrace.analysis.make_report import analyse
from balloontrace.archive.dataset import Batch, commit_batch, name_batch
from balloontrace.archive.parquet_files import SCHEMAS, encode
from balloontrace.archive.schema import TABLES, Type
from balloontrace.archive.storage import Storage
from balloontrace.format.recording import read_recording
from bench.fleet_recordings import DAY_NS, EXAMPLES, KERNELS

OPERATIONS_A_BATCH = 100_000
_VMS, _HOSTS = 100, 20
_FIRST_DAY = date(2026, 11, 1)
_FIRST_NS = 1_793_491_200 * 10**9  # that day, 0:00 UTC
_KINDS = ("inflate", "deflate")
_OUTCOMES = ("reached", "reached", "reached", "reached", "stalled", "superseded")
_FUNCTIONS = ("tell_host", "fill_balloon", "leak_balloon", "update_balloon_size_func", "batches")
_CALLS = ("madvise_dontneed", "madvise_willneed", "fallocate")
_VERDICTS = ("freed", "freed in part", "freed nothing", "unknown")

Columns = dict[str, pa.Array]


@cache
def _stage_rows() -> tuple[tuple[str, str | None], ...]:
    """Stage and whole of each row that a report of both sides has, in the order of a file."""
    paths = [EXAMPLES / f"nested-stock-{side}.bt" for side in ("guest", "host")]
    rows = [(row.stage, row.part_of) for row in analyse(*map(read_recording, paths)).operations[0].stages]
    return tuple(sorted(rows, key=lambda row: (row[1] is not None, str(row[1]), row[0])))


def write_operations(storage: Storage, number: int) -> None:
    """The batch of this number."""
    day, host = _FIRST_DAY + timedelta(days=number // _HOSTS), f"host-{number % _HOSTS:03}"
    ids = [f"{host}-{day}-{vm}" for vm in range(_VMS)]
    batch = name_batch(day, host, dict.fromkeys(ids, 3))
    commit_batch(storage, batch, _Made(batch, ids, number).files())


class _Made:
    """All tables of one batch."""

    def __init__(self, batch: Batch, ids: list[str], number: int) -> None:
        self._batch, self._ids, self._number = batch, ids, number
        self._rng = np.random.default_rng(number)
        self._day = _FIRST_DAY + timedelta(days=number // _HOSTS)
        self._host = f"host-{number % _HOSTS:03}"

    def files(self) -> dict[str, bytes]:
        """A file a table."""
        rng, count = self._rng, OPERATIONS_A_BATCH
        vm = np.sort(rng.integers(0, _VMS, count))  # as recordings are archived, one after the other
        size_bytes = rng.choice(np.array([1, 64, 256, 1024]) << 20, count)
        wall_ns = (size_bytes * rng.lognormal(0, 0.5, count)).astype(np.int64)
        of_day_ns = np.sort(vm * DAY_NS + rng.integers(0, DAY_NS, count)) - vm * DAY_NS
        started_ns = _FIRST_NS + self._number // _HOSTS * DAY_NS + of_day_ns
        kind, outcome = rng.integers(0, 2, count), rng.integers(0, len(_OUTCOMES), count)
        short = np.where(outcome >= 4, size_bytes // 4, 0)
        verdict = rng.integers(0, len(_VERDICTS), count)
        operation = np.arange(1, count + 1)
        made = {
            "operations": self._common(vm, started_ns)
            | {
                "host_recording_id": _words([f"{each}-host" for each in self._ids], vm),
                "host_kernel_release": _words(["6.12.117+deb13-amd64"], np.zeros(count, dtype=np.int64)),
                "operation": pa.array(operation),
                "device": _words(["virtio4"], np.zeros(count, dtype=np.int64)),
                "kind": _words(_KINDS, kind),
                "outcome": _words(_OUTCOMES, outcome),
                **{
                    name: pa.array(size_bytes)
                    for name in ("bytes", "target_bytes", "after_bytes", "asked_bytes")
                },
                "before_bytes": pa.array(np.zeros(count, dtype=np.int64)),
                "wall_ns": pa.array(wall_ns),
                "shortfall_bytes": pa.array(short),
                "sends": pa.array(size_bytes >> 20),
                "work_items": pa.array(size_bytes >> 20),
                "run_delay_ns": pa.array(wall_ns // 100),
                "oom_bytes": pa.array(np.zeros(count, dtype=np.int64)),
                "host_calls": pa.array(size_bytes >> 12),
                "host_errors": pa.array(np.zeros(count, dtype=np.int64)),
                "freed_verdict": _words(_VERDICTS, verdict),
                "freed_memory": _words(["anonymous"], np.zeros(count, dtype=np.int64)),
                "freed_least_bytes": pa.array(size_bytes // 2),
                "freed_most_bytes": pa.array(size_bytes),
            },
            "stages": self._stages(vm, started_ns, kind, outcome, size_bytes, wall_ns, operation),
            "machines": self._machines(),
            "calls": self._of_vms(
                len(_CALLS),
                {"call": (_CALLS, None)},
                ("calls", "bytes", "errors", "without_bytes", "freed_nothing", "freed_bytes", "total_ns"),
            ),
            "losses": self._of_vms(
                len(_FUNCTIONS),
                {"function": (_FUNCTIONS, None)},
                (
                    "entries",
                    "returns",
                    "unmatched_returns",
                    "lost",
                    "no_state",
                    "overwritten",
                    "missed",
                    "events_lost",
                ),
            ),
        }
        return {table: encode(table, _complete(table, columns)) for table, columns in made.items()}

    def _common(self, vm: NDArray[np.int64], started_ns: NDArray[np.int64]) -> Columns:
        none = np.zeros(len(vm), dtype=np.int64)
        return {
            "batch": _words([self._batch.name], none),
            "recording_id": _words(self._ids, vm),
            "day": pa.array(np.full(len(vm), self._day), type=pa.date32()),
            "host": _words([self._host], none),
            "vm": _words([f"{self._host}-vm-{each:03}" for each in range(_VMS)], vm),
            "kernel_release": _words(KERNELS, (vm + self._number // _HOSTS) % len(KERNELS)),
            "driver_kind": _words(["stock", "patched"], vm % 2),
            "started_at_ns": pa.array(started_ns),
        }

    def _stages(
        self,
        vm: NDArray[np.int64],
        started_ns: NDArray[np.int64],
        kind: NDArray[np.int64],
        outcome: NDArray[np.int64],
        size_bytes: NDArray[np.int64],
        wall_ns: NDArray[np.int64],
        operation: NDArray[np.int64],
    ) -> Columns:
        rows = _stage_rows()
        times = len(rows)
        shares = self._rng.dirichlet(np.ones(times), OPERATIONS_A_BATCH).T.reshape(-1)
        total_ns = (shares * np.tile(wall_ns, times)).astype(np.int64)
        count = np.tile(size_bytes >> 20, times)
        mean_ns = total_ns // np.maximum(count, 1)
        of_row = np.repeat(np.arange(times), OPERATIONS_A_BATCH)
        wholes = pa.array([whole for _, whole in rows], type=pa.string())
        return self._common(np.tile(vm, times), np.tile(started_ns, times)) | {
            "operation": pa.array(np.tile(operation, times)),
            "kind": _words(_KINDS, np.tile(kind, times)),
            "outcome": _words(_OUTCOMES, np.tile(outcome, times)),
            "bytes": pa.array(np.tile(size_bytes, times)),
            "stage": _words([stage for stage, _ in rows], of_row),
            "part_of": wholes.take(pa.array(of_row)),
            "count": pa.array(count),
            "total_ns": pa.array(total_ns),
            "p50_ns": pa.array(mean_ns),
            "p90_ns": pa.array(mean_ns * 2),
            "p99_ns": pa.array(mean_ns * 5),
            "max_ns": pa.array(mean_ns * 9),
        }

    def _machines(self) -> Columns:
        return self._of_vms(
            1,
            {"side": (["guest"], None), "engine": (["prebuilt"], None)},
            tuple(c.name for c in TABLES["machines"] if c.type is Type.INTEGER and c.name != "started_at_ns"),
        )

    def _of_vms(self, times: int, words: dict[str, tuple[object, None]], sums: tuple[str, ...]) -> Columns:
        """So many rows for each VM."""
        vm = np.repeat(np.arange(_VMS), times)
        started_ns = np.full(len(vm), _FIRST_NS + self._number // _HOSTS * DAY_NS)
        place = np.tile(np.arange(times), _VMS)
        numbers = {name: pa.array(self._rng.integers(0, 10**9, len(vm))) for name in sums}
        return (
            self._common(vm, started_ns)
            | {name: _words(each, place) for name, (each, _) in words.items()}
            | numbers
        )


def _words(words: object, places: NDArray[np.int64]) -> pa.Array:
    return pa.array(list(words), type=pa.string()).take(pa.array(places))  # type: ignore[call-overload]


def _complete(table: str, columns: Columns) -> pa.Table:
    """With nulls for what was not made."""
    schema, rows = SCHEMAS[table], len(columns["batch"])
    return pa.Table.from_arrays(
        [columns.get(field.name, pa.nulls(rows, field.type)) for field in schema], schema=schema
    )
