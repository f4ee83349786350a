# SPDX-License-Identifier: GPL-2.0-or-later
"""The table and the picture of docs/results.md that say what page reporting costs and gives back."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from balloontrace.units import format_bytes, format_count, format_duration_ns
from lab.reporting_sweep import ROUNDS, USED_MIB, Seen, Setting

HEADERS = (
    "order", "delay", "in small blocks", "reports", "reported", "guest's worker", "until answered", "host c",
    "host d", f"using {USED_MIB} MiB", "slower", "host's memory",
)  # fmt: skip
MEMORY = {False: "in large blocks", True: "in small pieces"}
_PAGE_BYTES = 4096

Json = dict[str, Any]


@dataclass(frozen=True)
class Swept:
    """One setting: the report of both recordings, and what was seen beside them."""

    setting: Setting
    reporting: Json
    seen: Seen

    @property
    def using_s(self) -> float:
        """The guest's time for using its memory: the median of all rounds but the first."""
        return statistics.median(self.seen.used_s[1:])

    @property
    def mean_rss_bytes(self) -> float:
        """What the host had of the guest, on average."""
        return statistics.fmean(sample.rss_bytes for sample in self.seen.samples)


def render_sweep(swept: Sequence[Swept]) -> str:
    """The table as Markdown; the setting without reports is what others of its kind are compared with."""
    off = {each.setting.is_fragmented: each for each in swept if each.setting.is_off}
    rows = sorted(swept, key=lambda each: each.setting.is_fragmented)
    lines = [
        f"{ROUNDS} rounds each. Times are sums over all rounds; the use of memory is the median round's,",
        "without the first. The host's memory is the mean over time. In blocks of less than 2 MiB was",
        "so much of the guest's free memory before the first round.", "",
        f"| {' | '.join(HEADERS)} |", f"|{'---:|' * len(HEADERS)}",
        *(f"| {' | '.join(cells(each, off[each.setting.is_fragmented]))} |" for each in rows),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def cells(swept: Swept, off: Swept) -> tuple[str, ...]:
    """One row. A setting without reports has none to time."""
    found, setting = swept.reporting, swept.setting
    reported_bytes = found["pages"] * _PAGE_BYTES
    spent = (found[name] for name in ("worker_ns", "transport_ns", "host_c_ns", "host_d_ns"))
    return (
        "-" if setting.is_off else str(setting.order),
        "no reports" if setting.is_off else format_duration_ns(setting.delay_ms * 1_000_000),
        f"{100 * swept.seen.small_ratio:.0f} %",
        format_count(found["reports"]),
        format_bytes(reported_bytes),
        *(format_duration_ns(each) if found["reports"] else "-" for each in spent),
        format_duration_ns(round(swept.using_s * 1e9)),
        "-" if setting.is_off else f"{100 * (swept.using_s / off.using_s - 1):.1f} %",
        format_bytes(round(swept.mean_rss_bytes)),
    )


def draw_sweep(swept: Sequence[Swept], path: Path) -> None:
    """The host's memory over the time of the rounds, a line for each setting; fragmented guests apart."""
    from matplotlib.figure import Figure  # only here: it takes a second to load

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    both = figure.subplots(1, 2, sharey=True)
    for axes, (is_fragmented, memory) in zip(both, MEMORY.items(), strict=True):
        for each in swept:
            if each.setting.is_fragmented is is_fragmented:
                times_s = [sample.at_s for sample in each.seen.samples]
                used_mib = [sample.rss_bytes / (1 << 20) for sample in each.seen.samples]
                axes.plot(times_s, used_mib, label=title(each.setting), linewidth=1.5)
        axes.set_title(f"free memory {memory}", fontsize="medium")
        axes.set_xlabel("time of the host, s")
        axes.grid(alpha=0.3)
        axes.legend(ncols=2, fontsize="small")
    both[0].set_ylabel("memory of the host in use by the VM, MiB")
    both[0].set_ylim(bottom=0)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def title(setting: Setting) -> str:
    """A setting in words."""
    if setting.is_off:
        return "no reports"
    return f"order {setting.order}, {format_duration_ns(setting.delay_ms * 1_000_000)}"
