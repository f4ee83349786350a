# SPDX-License-Identifier: GPL-2.0-or-later
"""Pieces of a guest and of its host in a dataset: the same operations as of the recordings that were cut."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner
from cut_recordings import cut
from fleets import EXAMPLES, ask, assert_same_rows, table_of
from synthetic import recording_bytes
from synthetic_both import flow_of, other_flow
from synthetic_vms import Vm, pieces_of, stream_of

from balloontrace.analysis.make_report import analyse, examine
from balloontrace.archive.archive_recordings import Archived, archive
from balloontrace.archive.find_pairs import find_awaited
from balloontrace.archive.look_at_recordings import Seen
from balloontrace.archive.storage import open_storage
from balloontrace.cli import cli
from balloontrace.format.recording import read_recording

# By the recording an operation is in.
BY_PIECE = ["batch", "recording_id", "host_recording_id", "operation"]
HOUR_NS = 3600 * 10**9


def into(folder: Path, *recordings: Path) -> Archived:
    return archive(recordings, open_storage(str(folder)))


def pair(name: str) -> tuple[Path, Path]:
    return EXAMPLES / f"{name}-guest.bt", EXAMPLES / f"{name}-host.bt"


def moments(name: str) -> tuple[list[int], list[int]]:
    """Of the host: in the middle of each operation. Of the guest: between two."""
    found = examine(*map(read_recording, pair(name)))
    assert found.guest is not None
    assert found.both is not None
    assert found.host is not None
    done = found.host.batches.int64("last_return_ns")
    operation = found.guest.operations.send_operation[found.both.send_of_batch]
    numbers = range(len(found.report.operations))
    middles = [sorted(done[operation == number])[int((operation == number).sum()) // 2] for number in numbers]
    ends = [(each.started_ns or 0) + (each.wall_ns or 0) + 1 for each in found.report.operations]
    return [int(each) + 1 for each in middles], ends[:-1]


def rows(folder: Path, table: str) -> pd.DataFrame:
    found = table_of(folder, table)
    found = found[[name for name in found.columns if name not in BY_PIECE]].astype(str)
    return found.sort_values([*found.columns]).reset_index(drop=True)


def assert_same_operations(folder: Path, expected: Path, *, clocks_differ: bool = False) -> None:
    """With `clocks_differ` the ways to the host and back are of fewer pairs, and b as a whole is the same."""
    pd.testing.assert_frame_equal(rows(folder, "operations"), rows(expected, "operations"))
    found, wanted = rows(folder, "stages"), rows(expected, "stages")
    if clocks_differ:
        ways = [each[each["part_of"] == "b"].astype({"total_ns": int}) for each in (found, wanted)]
        sums = [each.groupby("started_at_ns")["total_ns"].sum().to_dict() for each in ways]
        assert sums[0] == sums[1]
        found, wanted = (each[each["part_of"] != "b"].reset_index(drop=True) for each in (found, wanted))
    pd.testing.assert_frame_equal(found, wanted)


@pytest.mark.parametrize("name", ["before/before-001", "nested-qemu", "nested-stock", "other-formats-stock"])
@pytest.mark.parametrize("guest_too", [False, True])
def test_pieces_make_the_operations_of_the_whole(name: str, guest_too: bool, tmp_path: Path) -> None:
    guest, host = pair(name)
    in_operations, between = moments(name)
    into(tmp_path / "whole", guest, host)
    guests = cut(guest, between, tmp_path / "guests") if guest_too else [guest]
    hosts = cut(host, in_operations, tmp_path / "hosts")
    found = into(tmp_path / "pieces", *hosts, *guests)
    assert (found.matched, found.refused) == (len(guests), [])
    assert_same_operations(tmp_path / "pieces", tmp_path / "whole", clocks_differ=len(guests) > 1)
    assert into(tmp_path / "pieces", *guests, *hosts).written == 0


@pytest.mark.parametrize("name", ["before/before-001", "after/after-001"])
def test_an_operation_cut_in_the_guest_is_two_rows_that_say_so(name: str, tmp_path: Path) -> None:
    """Inside a work item, and of many sends or of one."""
    guest, host = pair(name)
    operation = analyse(*map(read_recording, (guest, host))).operations[0]
    at_ns = operation.started_ns + operation.wall_ns // 2
    guests = cut(guest, [at_ns], tmp_path / "guests")
    hosts = cut(host, moments(name)[0], tmp_path / "hosts")
    data = tmp_path / "data"
    into(data, *guests, *hosts)
    found = table_of(data, "operations").sort_values("started_at_ns")
    inflates = found[found["kind"] == "inflate"]
    assert sum(inflates["bytes"]) == (operation.pages or 0) * 4096
    assert sum(inflates["wall_ns"]) <= operation.wall_ns
    assert not inflates["whole"].any()
    # It is counted where it ends, and has left the balloon short of nothing.
    (of_vm,) = ask(data, "stalls")
    assert [of_vm[name] for name in ("operations", "stalled", "short", "short_bytes")] == [2, 0, 0, 0]
    assert list(found[found["kind"] == "deflate"]["whole"]) == [True]
    stages = table_of(data, "stages")
    for row in inflates.to_dict("records"):
        mine = stages[(stages["started_at_ns"] == row["started_at_ns"]) & stages["part_of"].isna()]
        assert sum(mine["total_ns"]) == (row["wall_ns"] if len(mine) else 0)
    assert list(found["whole"]) == [*[False] * len(inflates), True]


def test_what_is_cut_is_said_to_be_until_the_rest_comes(tmp_path: Path) -> None:
    """Of an operation that two of the host's pieces served, one alone tells nothing that could be wrong."""
    guest, host = pair("before/before-001")
    hosts = cut(host, moments("before/before-001")[0], tmp_path / "hosts")
    data = tmp_path / "data"
    for pieces, served in (
        ((), 0),
        (hosts[:1], 0),
        (hosts[:2], 1),
        (hosts[1:], 1),
        (hosts, 2),
        (hosts[:1], 2),
    ):
        into(data, guest, *pieces)
        operations = table_of(data, "operations")
        assert len(operations) == 2
        assert operations["host_calls"].notna().sum() == served
        stages = table_of(data, "stages")
        whole = stages[stages["part_of"].isna()]
        assert whole["total_ns"].sum() == operations["wall_ns"].sum()
        assert whole[whole["stage"].isin(["c", "d"])]["total_ns"].notna().sum() == 2 * served
    into(tmp_path / "expected", guest, *hosts)
    assert_same_rows(data, tmp_path / "expected")


def test_pieces_of_one_pair_are_matched_by_their_time(tmp_path: Path) -> None:
    """Each hour has the same few sends, and all have the name of one pair."""
    guest, host = pair("after/after-001")
    guests, hosts = (
        [cut(each, [], tmp_path, later_ns=hour * HOUR_NS)[0] for hour in range(3)] for each in (guest, host)
    )
    assert analyse(*map(read_recording, (guests[0], hosts[2]))).host  # by the name alone
    assert into(tmp_path / "apart", guests[0], hosts[2]).matched == 0


def test_pieces_of_all_vms_of_a_host(tmp_path: Path) -> None:
    flow, other = flow_of(), other_flow()
    vms = (Vm("web1", other, 11), Vm("web2", flow, 12), Vm("db", None, 13))
    served = sorted(batch.done_ns for batch in vms[1].batches)
    hosts = []
    for number, raw in enumerate(pieces_of(*vms, at_ns=[served[30] + 1, served[77] + 1, served[140] + 1])):
        hosts.append(tmp_path / f"balloon-{number}.bt")
        hosts[-1].write_bytes(raw)
    guest, whole = tmp_path / "web2.bt", tmp_path / "all.bt"
    guest.write_bytes(recording_bytes(flow))
    whole.write_bytes(stream_of(*vms).getvalue())
    into(tmp_path / "whole", guest, whole)
    found = into(tmp_path / "pieces", *hosts, guest)
    assert (found.written, found.matched) == (len(vms) * len(hosts) + 1, 1)
    assert_same_operations(tmp_path / "pieces", tmp_path / "whole")
    assert set(table_of(tmp_path / "pieces", "operations")["vm"]) == {"web2"}


def test_the_last_pieces_of_two_sides_stay_until_later_ones_come(tmp_path: Path) -> None:
    """Of one side alone they need not wait."""

    def at(hour: float, *, of_host: bool, is_piece: bool = True) -> Seen:
        window = int(hour * HOUR_NS), int((hour + 1) * HOUR_NS)
        path = Path(f"{hour} {of_host}")
        return Seen(path, 0, str(path), of_host, True, window, None, "", is_piece)

    guests, hosts = ([at(hour, of_host=of_host) for hour in range(40)] for of_host in (False, True))
    assert find_awaited(guests) == find_awaited(hosts[:3]) == set()
    assert find_awaited([*guests[:3], at(2.5, of_host=True, is_piece=False)]) == set()
    assert find_awaited([*guests[:3], *hosts[:3]]) == {guests[2].path, hosts[2].path}
    assert find_awaited([*guests[:3], *hosts[:2]]) == {guests[1].path, guests[2].path, hosts[1].path}
    assert find_awaited([*guests, *hosts[:2]]) == {each.path for each in guests[15:]}
    for side in ("guest", "host"):
        cut(EXAMPLES / "after" / f"after-001-{side}.bt", [], tmp_path / side)
    words = ["--to", str(tmp_path / "data"), "--remove"]
    assert CliRunner().invoke(cli, ["archive", str(tmp_path), *words]).exit_code == 0
    assert len(list(tmp_path.glob("*/*.bt"))) == 2
    assert CliRunner().invoke(cli, ["archive", str(tmp_path / "host"), *words]).exit_code == 0
    assert [path.parent.name for path in tmp_path.glob("*/*.bt")] == ["guest"]


def test_two_hosts_that_agree_prove_nothing(tmp_path: Path) -> None:
    """As two VMs of one host: a clone that did the same at the same time."""
    flow = flow_of()
    for number, host in enumerate((Vm("one", flow, 1), Vm("two", flow, 2))):
        (tmp_path / f"all-{number}.bt").write_bytes(stream_of(host, identity=f"{number:032}").getvalue())
    (tmp_path / "web2.bt").write_bytes(recording_bytes(flow))
    found = into(tmp_path / "data", tmp_path)
    assert (found.written, found.matched) == (3, 0)
