# SPDX-License-Identifier: GPL-2.0-or-later
"""What many VMs are doing, from looks at the sums of each."""

from __future__ import annotations

from collections.abc import Sequence

from balloontrace.live.make_views import HostViews
from balloontrace.live.read_all_sums import VmLook
from balloontrace.results.live_view import VmView


class AllViews:
    """Makes views of looks that come one after the other; a VM is in it from its second look on."""

    def __init__(self, first: Sequence[VmLook]) -> None:
        self._views = {each.number: HostViews(each.look) for each in first}

    def view(self, now: Sequence[VmLook]) -> tuple[VmView, ...]:
        """What happened since the look before; `now` is the next one's."""
        there = {each.number for each in now}
        self._views = {number: views for number, views in self._views.items() if number in there}
        found = []
        for each in now:
            views = self._views.get(each.number)
            if views is None:
                self._views[each.number] = HostViews(each.look)
            else:
                found.append(VmView(each.process.name, each.process.pid, views.view(each.look)))
        return tuple(found)
