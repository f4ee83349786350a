# SPDX-License-Identifier: GPL-2.0-or-later
"""Whatever was archived before, in which order, cut short or merged: a dataset ends as a clean one does."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

import pytest
from cut_recordings import cut
from fleets import EXAMPLES, assert_same_rows, dataset_of, table_of
from killed_writers import killed_at

from balloontrace.analysis import make_report
from balloontrace.archive import archive_recordings, match_pieces, merge_batches
from balloontrace.archive.dataset import Dataset, read_dataset
from balloontrace.archive.storage import Storage, open_storage
from balloontrace.errors import BalloontraceError
from balloontrace.format.recording import Recording

STEPS = 7
_NEVER = 0
LATER_NS = 23 * 3600 * 10**9  # another day


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Pairs, one cut where an operation is under way, one alone, and one of which there is a torn copy."""
    folder = tmp_path_factory.mktemp("given")
    before, after = EXAMPLES / "before", EXAMPLES / "after"
    guest = before / "before-001-guest.bt"
    hosts = cut(before / "before-001-host.bt", [19_838_092_216, 21_295_015_445], folder)
    others = cut(before / "before-002-host.bt", [], folder, later_ns=LATER_NS)
    torn, whole = folder / "torn.bt", before / "before-003-guest.bt"
    torn.write_bytes(whole.read_bytes()[:-900])
    pairs = [after / f"after-00{number}-{side}.bt" for number in (1, 2) for side in ("guest", "host")]
    return [guest, *hosts, *others, torn, whole, *pairs, EXAMPLES / "bitmap-inflate.bt"]


@pytest.fixture(scope="module")
def clean(given: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clean")
    into(folder, given)
    assert len(dataset_of(folder).ranks) == len(given) - 1
    return folder


@cache
def once(name: str) -> Callable[..., object]:
    """What takes long, done once for the same recordings."""
    act, found = getattr(make_report, name), {}

    def acting(*recordings: Recording) -> object:
        key = tuple((each.label, each.size_bytes) for each in recordings)
        if key not in found:
            try:
                found[key] = act(*recordings)
            except BalloontraceError as error:
                found[key] = error
        if isinstance(found[key], BalloontraceError):
            raise found[key]
        return found[key]

    return acting


@pytest.fixture(autouse=True)
def analysed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(match_pieces, "examine", once("examine"))
    monkeypatch.setattr(archive_recordings, "analyse", once("analyse"))


def into(folder: Path, recordings: Sequence[Path]) -> None:
    archive_recordings.archive(recordings, open_storage(str(folder)), keep_damaged=True)


def do_one(rng: random.Random, folder: Path, given: Sequence[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Archive some, or merge; perhaps by what the dataset was before another did so, perhaps killed."""
    with monkeypatch.context() as patched:
        if rng.random() < 0.4:
            stale = read_dataset(open_storage(str(folder)))
            do_one(rng, folder, given, monkeypatch)

            def read_stale(storage: Storage) -> Dataset:
                return Dataset(storage, stale.batches)

            patched.setattr(archive_recordings, "read_dataset", read_stale)
            patched.setattr(merge_batches, "read_dataset", read_stale)
        step = rng.randrange(1, 30) if rng.random() < 0.4 else _NEVER
        with killed_at(step, monkeypatch):
            if rng.random() < 0.35:
                # What another has merged meanwhile is gone: that is said, and done again some day.
                with suppress(BalloontraceError):
                    merge_batches.merge(open_storage(str(folder)))
            else:
                some = rng.sample(given, rng.randrange(1, len(given) + 1))
                into(folder, some)


def orders(seed: int, clean: Path, given: list[Path], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng, before = random.Random(seed), dict[str, int]()
    into(folder, given[:1])
    for _ in range(STEPS):
        do_one(rng, folder, given, monkeypatch)
        ranks = dataset_of(folder).ranks
        assert all(ranks[recording] >= rank for recording, rank in before.items())
        machines = table_of(folder, "machines")
        assert sorted(machines["recording_id"]) == sorted(ranks)
        before = ranks
    into(folder, given)
    assert_same_rows(folder, clean)
    merge_batches.merge(open_storage(str(folder)))
    assert_same_rows(folder, clean)
    into(folder, given)
    assert not dataset_of(folder).hidden


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.thorough)])
def test_any_order_ends_alike(
    seed: int, clean: Path, given: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders(seed, clean, given, tmp_path, monkeypatch)


@pytest.mark.thorough
def test_many_orders_end_alike(
    clean: Path, given: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(100, 125):
        orders(seed, clean, given, tmp_path / str(seed), monkeypatch)
