# SPDX-License-Identifier: GPL-2.0-or-later
"""Never are two recordings of one id committed, as a VM that was cloned while it recorded makes them.

    DATASET/claims/NUMBER.json      contents by recording, of what a writer is about to commit

A writer puts its claim there, then looks for others' claims, then for commits, and commits if none has other
contents for the same id. It removes its claim when it is done. So of two writers one at least sees the other;
where both do, both take their claims back, and try again after pauses that chance makes different. One who
was killed leaves a claim. It is in nobody's way who has the same contents, and goes once those are committed.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from balloontrace.archive.dataset import Dataset, read_newer
from balloontrace.archive.storage import Storage
from balloontrace.untrusted import printable

_FOLDER = "claims"
_PAUSES_MS = (50, 100, 200, 400, 800, 1600)  # at most; each is drawn anew


@contextmanager
def claimed(dataset: Dataset, contents: Mapping[str, str]) -> Iterator[Mapping[str, str]]:
    """Nobody else commits other contents for these recordings inside the context.

    `dataset` is what was committed some time ago. Yields which recordings are not to be committed, each with
    what has its id, as words. Errors as `Storage.put`.
    """
    storage = dataset.storage
    if not contents:
        yield {}
        return
    name = f"{_FOLDER}/{secrets.token_hex(16)}.json"
    for pause_ms in (*_PAUSES_MS, None):
        storage.put(name, json.dumps(contents, indent=1).encode())
        try:
            # In this order: a claim goes when its commit is there.
            claims = _read(storage, but=name)
            committed = {**dataset.contents, **read_newer(dataset).contents}
        except BaseException:
            storage.remove(name)
            raise
        url = printable(storage.url)
        taken = dict.fromkeys(_others(contents, committed), f"a recording in {url}")
        disputed = {
            recording: f"one that is being archived to {url} (if nobody does, remove {other} there)"
            for other, claim in claims.items()
            for recording in _others(contents, claim)
            if recording not in taken
        }
        if not disputed or pause_ms is None:
            break
        storage.remove(name)
        time.sleep(secrets.randbelow(pause_ms) / 1000)
    try:
        yield (left_out := {**disputed, **taken})
        if claims:
            new = {recording: each for recording, each in contents.items() if recording not in left_out}
            remove_spent(storage, {**committed, **new})
    finally:
        storage.remove(name)


def remove_spent(storage: Storage, committed: Mapping[str, str]) -> None:
    """Remove claims of which all is committed, as a writer who was killed leaves them."""
    for name, claim in _read(storage).items():
        if claim.items() <= committed.items():
            storage.remove(name)


def _others(contents: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    """The recordings for which there are other contents."""
    return [recording for recording in contents if other.get(recording, "") not in ("", contents[recording])]


def _read(storage: Storage, but: str = "") -> dict[str, dict[str, str]]:
    """All claims by name but one; what is no claim claims nothing."""
    found = {}
    names = [name for name in storage.find(_FOLDER, ".json") if name != but]
    for name, content in storage.get_all(names).items():
        try:
            found[name] = {str(recording): str(each) for recording, each in json.loads(content).items()}
        except (ValueError, AttributeError):
            continue
    return found
