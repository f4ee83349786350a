# SPDX-License-Identifier: GPL-2.0-or-later
"""The probe plan for kernels of many kinds, from their symbols alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest

from balloontrace.errors import MissingProbeError
from balloontrace.format.vocabulary import STATS_BIT, Function, Status
from balloontrace.system.kernel import Layout, Symbol
from balloontrace.trace.guest.plan import GuestPlan, GuestProbe, make_plan
from balloontrace.trace.guest.probes import ALLOCATION, TABLE
from balloontrace.trace.mechanism import Mechanism

MODULE = "virtio_balloon"
DRIVER_FUNCTIONS = (
    "tell_host",
    "leak_balloon",
    "update_balloon_size_func",
    "virtballoon_changed",
    "balloon_ack",
    "virtio_balloon_oom_notify",
    "virtballoon_migratepage",
    "virtballoon_freeze",
    "virtballoon_restore",
    "virtballoon_remove",
)
NUM_PAGES_KNOWN = Layout({"virtio_balloon.num_pages": 8}, source="btf")


def driver(
    names: Iterable[str] = DRIVER_FUNCTIONS, module: str = MODULE, base: int = 0xC0400000
) -> list[Symbol]:
    return [Symbol(name, base + 0x100 * number, module) for number, name in enumerate(names)]


def transport(count: int = 2, kind: str = "vp") -> list[Symbol]:
    return [
        Symbol(f"{kind}_{verb}", 0x81A00000 + 0x1000 * number + place, "")
        for number in range(count)
        for place, verb in ((0x10, "get"), (0x200, "set"))
    ]


def without(name: str, *instead: str) -> list[Symbol]:
    """The stock driver, but `name` is only there under other names."""
    names = [other for other in DRIVER_FUNCTIONS if other != name]
    return driver([*names, *instead]) + transport()


def probe(symbols: list[Symbol], function: Function, layout: Layout = NUM_PAGES_KNOWN) -> GuestProbe:
    return make_plan(symbols, layout).probe(function)


def names_of(found: GuestProbe) -> list[str]:
    return [symbol.name for symbol in found.symbols]


def stock(layout: Layout = NUM_PAGES_KNOWN, fentry: Iterable[str] = ()) -> GuestPlan:
    return make_plan(driver() + transport(), layout, fentry_functions=frozenset(fentry))


# ---- the table ----


def test_every_function_has_one_row() -> None:
    no_functions = {Function.PAYLOAD, Function.ALLOCATION_PARTS}
    points = (*TABLE, *ALLOCATION)
    assert sorted(point.function for point in points) == sorted(set(Function) - no_functions)


def test_stock_debian_kernel() -> None:
    plan = stock()
    assert plan.driver_found
    assert plan.driver_module == MODULE
    assert {p.function.symbol: p.status for p in plan.probes} == {
        "update_balloon_size_func": Status.ATTACH,
        "fill_balloon": Status.INLINED,
        "leak_balloon": Status.ATTACH,
        "tell_host": Status.ATTACH,
        "virtballoon_changed": Status.ATTACH,
        "balloon_ack": Status.ATTACH,
        "config_get": Status.ATTACH,
        "config_set": Status.NOT_NEEDED,
        "virtio_balloon_oom_notify": Status.ATTACH,
        "virtballoon_migratepage": Status.ATTACH,
        "virtballoon_freeze": Status.ATTACH,
        "virtballoon_restore": Status.ATTACH,
        "virtballoon_remove": Status.ATTACH,
    }
    assert plan.missing_required == ()


def test_functions_of_a_feature_have_a_row_where_a_device_has_it() -> None:
    symbols = driver([*DRIVER_FUNCTIONS, "stats_request", "update_balloon_stats_func"])
    plan = make_plan(symbols, NUM_PAGES_KNOWN, feature_bits={STATS_BIT})
    assert {probe.function.symbol for probe in plan.attachable} >= {
        "stats_request",
        "update_balloon_stats_func",
    }
    assert not any(probe.point.feature_bit for probe in make_plan(symbols, NUM_PAGES_KNOWN).probes)


# ---- which symbol ----


@pytest.mark.parametrize("variant", ["isra.0", "constprop.0", "llvm.123", "part.0"])
def test_plain_name_is_preferred_to_clones(variant: str) -> None:
    found = probe(driver([f"tell_host.{variant}", *DRIVER_FUNCTIONS]), Function.TELL_HOST)
    assert names_of(found) == ["tell_host"]
    assert found.arguments_trusted
    assert found.note == ""


@pytest.mark.parametrize("variant", ["isra.0", "constprop.0", "llvm.123", "isra.0.constprop.1"])
def test_a_clone_is_taken_but_its_arguments_are_not_trusted(variant: str) -> None:
    found = probe(without("tell_host", f"tell_host.{variant}"), Function.TELL_HOST)
    assert (found.status, names_of(found)) == (Status.ATTACH, [f"tell_host.{variant}"])
    assert not found.arguments_trusted
    assert "arguments are not trusted" in found.note
    assert "lower bounds" not in found.note


def test_part_of_a_function_is_said_to_be_one() -> None:
    found = probe(without("leak_balloon", "leak_balloon.part.0"), Function.LEAK_BALLOON)
    assert names_of(found) == ["leak_balloon.part.0"]
    assert "only part of the function, its times are lower bounds" in found.note


def test_the_best_kind_of_clone_is_taken_all_of_it() -> None:
    symbols = without("tell_host", "tell_host.part.0", "tell_host.constprop.0", "tell_host.constprop.1")
    found = probe(symbols, Function.TELL_HOST)
    assert names_of(found) == ["tell_host.constprop.0", "tell_host.constprop.1"]
    assert "2 functions of this name, all attached" in found.note


@pytest.mark.parametrize(
    "never",
    ["tell_host.cold", "tell_host.isra.0.cold", "tell_host.cold.7", "__pfx_tell_host", "__cfi_tell_host"],
)
def test_what_stands_beside_a_function_is_never_taken(never: str) -> None:
    found = probe(without("tell_host", never), Function.TELL_HOST)
    assert (found.status, found.symbols) == (Status.INLINED, ())


def test_the_drivers_own_of_two_modules() -> None:
    other = driver(["tell_host", "leak_balloon"], module="another", base=0xC0100000)
    found = make_plan(other + driver() + transport(), NUM_PAGES_KNOWN)
    for function in (Function.TELL_HOST, Function.LEAK_BALLOON):
        (symbol,) = found.probe(function).symbols
        assert symbol.module == MODULE


def test_the_drivers_name_of_two_balloon_drivers() -> None:
    copy = driver(module="my_balloon_copy", base=0xC0100000)
    assert make_plan(copy + driver(), NUM_PAGES_KNOWN).driver_module == MODULE
    assert make_plan(copy, NUM_PAGES_KNOWN).driver_module == "my_balloon_copy"


def test_built_in_driver_takes_the_neighbour_of_equal_names() -> None:
    built_in = driver(module="", base=0x81B00000)
    strangers = [Symbol("leak_balloon", 0x81000000, ""), Symbol("leak_balloon", 0x82F00000, "")]
    plan = make_plan([*strangers, *built_in], NUM_PAGES_KNOWN)
    assert (plan.driver_found, plan.driver_module) == (True, "")
    (symbol,) = plan.probe(Function.LEAK_BALLOON).symbols
    assert 0x81B00000 <= symbol.address < 0x81C00000


def test_both_transports_of_the_same_name_are_attached() -> None:
    found = probe(driver() + transport(2), Function.CONFIG_GET)
    assert [symbol.address for symbol in found.symbols] == [0x81A00010, 0x81A01010]
    assert found.note == "2 functions of this name, all attached"


def test_transport_in_memory_mapped_io() -> None:
    assert names_of(probe(driver() + transport(1, "vm"), Function.CONFIG_GET)) == ["vm_get"]


# ---- what is missing ----


def test_fill_balloon_present() -> None:
    plan = make_plan(driver(["fill_balloon", *DRIVER_FUNCTIONS]) + transport(), NUM_PAGES_KNOWN)
    assert plan.probe(Function.FILL_BALLOON).status is Status.ATTACH
    assert plan.stand_ins(Function.UPDATE_BALLOON_SIZE_FUNC.symbol) == ()
    assert plan.boundaries == {"fill": "fill_balloon", "leak": "leak_balloon", "send": "tell_host"}


def test_fill_balloon_inlined_has_its_stand_in() -> None:
    plan = stock()
    found = plan.probe(Function.FILL_BALLOON)
    assert (found.status, found.note) == (Status.INLINED, "update_balloon_size_func stands in")
    assert plan.stand_ins(Function.UPDATE_BALLOON_SIZE_FUNC.symbol) == ("fill_balloon",)
    assert plan.boundaries == {
        "fill": "update_balloon_size_func",
        "leak": "leak_balloon",
        "send": "tell_host",
    }


def test_both_bodies_inlined() -> None:
    plan = make_plan(without("leak_balloon"), NUM_PAGES_KNOWN)
    assert plan.stand_ins(Function.UPDATE_BALLOON_SIZE_FUNC.symbol) == ("fill_balloon", "leak_balloon")
    assert plan.boundaries["leak"] == "update_balloon_size_func"


@pytest.mark.parametrize("name", ["tell_host", "update_balloon_size_func"])
def test_missing_required(name: str) -> None:
    plan = make_plan(without(name), NUM_PAGES_KNOWN)
    assert name in [found.function.symbol for found in plan.missing_required]


def test_no_driver_at_all() -> None:
    plan = make_plan(transport(), NUM_PAGES_KNOWN)
    assert not plan.driver_found
    assert [found.function for found in plan.attachable] == [Function.CONFIG_GET]


def test_optional_functions_may_be_absent() -> None:
    symbols = driver(["tell_host", "leak_balloon", "update_balloon_size_func", "virtballoon_changed"])
    plan = make_plan(symbols, NUM_PAGES_KNOWN)
    for function in (
        Function.VIRTIO_BALLOON_OOM_NOTIFY,
        Function.VIRTBALLOON_MIGRATEPAGE,
        Function.CONFIG_GET,
    ):
        assert plan.probe(function).status is Status.ABSENT
    assert plan.missing_required == ()


def test_the_write_of_actual_is_followed_only_without_the_drivers_member() -> None:
    assert stock().probe(Function.CONFIG_SET).status is Status.NOT_NEEDED
    found = stock(Layout()).probe(Function.CONFIG_SET)
    assert (found.status, len(found.symbols)) == (Status.ATTACH, 2)


# ---- mechanisms ----


def test_fentry_where_it_can_be() -> None:
    plan = stock(fentry=[*DRIVER_FUNCTIONS, "vp_get", "fill_balloon"])
    assert {found.mechanism for found in plan.attachable} == {Mechanism.FENTRY}


def test_fentry_takes_the_first_of_equal_names_and_kprobes_the_others() -> None:
    found = stock(fentry=["vp_get"]).probe(Function.CONFIG_GET)
    ranked = sorted(found.by_symbol, key=lambda pair: pair[0].address)
    assert [mechanism for _, mechanism in ranked] == [Mechanism.FENTRY, Mechanism.KPROBE]
    assert found.kind == "both"
    assert sorted(found.spelled_out.split(", ")) == ["fexit", "kprobe+kretprobe"]


def test_without_addresses_only_the_first_of_equal_names_can_be_reached() -> None:
    hidden = [replace(symbol, address=0) for symbol in driver() + transport()]
    plan = make_plan(hidden, NUM_PAGES_KNOWN, fentry_functions=frozenset(["vp_get"]))
    assert [m for _, m in plan.probe(Function.CONFIG_GET).by_symbol] == [Mechanism.FENTRY]
    by_kprobe = make_plan(hidden, NUM_PAGES_KNOWN)
    assert len(by_kprobe.probe(Function.CONFIG_GET).symbols) == 1


def test_no_fentry_for_what_type_information_does_not_know() -> None:
    plan = stock(fentry=["tell_host"])
    assert plan.probe(Function.TELL_HOST).mechanism is Mechanism.FENTRY
    assert plan.probe(Function.LEAK_BALLOON).mechanism is Mechanism.KPROBE


@pytest.mark.parametrize("clones", [["tell_host.isra.0"], ["tell_host.isra.0", "tell_host.isra.1"]])
def test_no_fentry_for_clones(clones: list[str]) -> None:
    plan = make_plan(
        without("tell_host", *clones), NUM_PAGES_KNOWN, fentry_functions=frozenset(["tell_host", *clones])
    )
    assert plan.probe(Function.TELL_HOST).mechanism is Mechanism.KPROBE


def test_kprobes_throughout_on_request() -> None:
    plan = stock(fentry=DRIVER_FUNCTIONS)
    by_kprobe = plan.with_kprobes()
    assert {found.mechanism for found in by_kprobe.probes} == {Mechanism.KPROBE}
    assert by_kprobe == stock()
    assert plan != by_kprobe


@pytest.mark.parametrize(
    ("mechanism", "returns", "word"),
    [
        (Mechanism.FENTRY, True, "fexit"),
        (Mechanism.FENTRY, False, "fentry"),
        (Mechanism.KPROBE, True, "kretprobe"),
        (Mechanism.KPROBE, False, "kprobe"),
    ],
)
def test_programs_in_the_kernels_words(mechanism: Mechanism, returns: bool, word: str) -> None:
    assert mechanism.program(returns=returns) == word


# ---- as it is shown ----


def rows(plan: GuestPlan, failures: dict[str, str] | None = None) -> dict[str, dict[str, object]]:
    return {str(row["function"]): row for row in plan.describe(failures)}


def test_rows_of_a_plan() -> None:
    shown = rows(stock(fentry=DRIVER_FUNCTIONS))
    assert shown["tell_host"] == {
        "function": "tell_host",
        "symbol": "tell_host",
        "module": MODULE,
        "mechanism": "fentry+fexit",
        "stage": "b+c+d",
        "status": "attach",
        "stands_in_for": None,
        "required": True,
        "yields": "one span per send: queue, pages, and the time until the host has answered",
        "note": None,
    }
    assert shown["update_balloon_size_func"]["stands_in_for"] == "fill_balloon"
    assert shown["virtballoon_changed"]["mechanism"] == "fentry"
    assert (shown["fill_balloon"]["status"], shown["fill_balloon"]["mechanism"]) == ("inlined", None)
    assert (shown["config_get"]["symbol"], shown["config_get"]["module"]) == ("vp_get", None)


def test_rows_of_a_recording() -> None:
    shown = rows(stock(), {"virtballoon_migratepage": "no kprobe: Invalid argument"})
    assert shown["tell_host"]["status"] == "attached"
    assert shown["fill_balloon"]["status"] == "inlined"
    assert shown["virtballoon_migratepage"]["status"] == "failed"
    assert shown["virtballoon_migratepage"]["note"] == "no kprobe: Invalid argument"


# ---- a module that was loaded again ----


def test_a_plan_moves_with_its_module() -> None:
    plan = stock().with_kprobes()
    moved = plan.moved_to(driver(base=0xC0900000) + transport())
    assert [each.status for each in moved.probes] == [each.status for each in plan.probes]
    before, after = plan.probe(Function.TELL_HOST), moved.probe(Function.TELL_HOST)
    assert [symbol.address for symbol in before.symbols] == [0xC0400000]
    assert [symbol.address for symbol in after.symbols] == [0xC0900000]
    assert moved.probe(Function.CONFIG_GET) == plan.probe(Function.CONFIG_GET)


def test_a_module_without_what_was_traced_is_refused() -> None:
    with pytest.raises(MissingProbeError, match="tell_host is not in it any more"):
        stock().with_kprobes().moved_to(without("tell_host"))


def test_fentry_does_not_move() -> None:
    with pytest.raises(MissingProbeError, match="was reached by fentry"):
        stock(fentry=DRIVER_FUNCTIONS).moved_to(driver(base=0xC0900000) + transport())
