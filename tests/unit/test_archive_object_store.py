# SPDX-License-Identifier: GPL-2.0-or-later
"""A dataset in an object store, a server of S3 in its own process: writers that are killed; a question."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fleets import EXAMPLES, ROOT, contents

from balloontrace.archive.archive_recordings import archive
from balloontrace.archive.dataset import read_dataset
from balloontrace.archive.merge_batches import merge
from balloontrace.archive.schema import TABLES
from balloontrace.archive.storage import open_storage

# They start a server, and `make check` has to be quick.
pytestmark = pytest.mark.thorough

# Two batches: of a day and host each.
GIVEN = [
    EXAMPLES / "after" / f"after-00{number}-{side}.bt" for number in (1, 2) for side in ("guest", "host")
]
GIVEN.append(EXAMPLES / "bitmap-inflate.bt")
FILES_A_BATCH = len(TABLES) + 1
CLAIMS = 1  # before them

SERVER = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""

# Kills itself when so many objects are in the store; waits for a word before it writes the first.
WRITER = """
import os, signal, sys
from pathlib import Path
from balloontrace.archive.archive_recordings import archive
from balloontrace.archive.storage import Storage, open_storage
url, left, put = sys.argv[1], int(sys.argv[2]), Storage.put
waits = True
def counted(storage, name, content):
    global left, waits
    if waits:
        waits = False
        print("ready", flush=True)
        sys.stdin.readline()
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    put(storage, name, content)
Storage.put = counted
archive([Path(each) for each in sys.argv[3:]], open_storage(url))
"""


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with subprocess.Popen(
        [sys.executable, "-c", SERVER],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    ) as server, pytest.MonkeyPatch.context() as environment:  # fmt: skip
        assert server.stdout is not None
        environment.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{int(server.stdout.readline())}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
            environment.setenv(name, "us-east-1")
        fsspec.filesystem("s3").mkdir("bucket")
        yield "s3://bucket"
        server.terminate()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    archive(GIVEN, open_storage(str(folder)))
    return folder


def objects(url: str) -> dict[str, bytes]:
    files = fsspec.filesystem("s3", use_listings_cache=False)
    root = url.removeprefix("s3://")
    return {path.removeprefix(f"{root}/"): files.cat_file(path) for path in files.find(root)}


def start_writer(url: str, after: int, given: Sequence[Path] = GIVEN) -> subprocess.Popen[bytes]:
    """It has looked at the dataset, and is about to write."""
    words = [sys.executable, "-c", WRITER, url, str(after), *map(str, given)]
    writer = subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert writer.stdout is not None
    assert writer.stdout.readline() == b"ready\n"
    return writer


def ended(writer: subprocess.Popen[bytes]) -> int:
    writer.communicate(b"go\n", timeout=300)
    return writer.returncode


def test_two_writers_at_once_and_one_killed(bucket: str, whole: Path) -> None:
    url = f"{bucket}/together"
    killed = start_writer(url, CLAIMS + FILES_A_BATCH - 1)
    writers = [start_writer(url, 1000), start_writer(url, 1000, list(reversed(GIVEN)))]
    assert ended(killed) == -signal.SIGKILL
    assert len(objects(url)) == CLAIMS + FILES_A_BATCH - 1
    assert not read_dataset(open_storage(url)).batches
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write(b"go\n")
        writer.stdin.flush()
    assert [writer.wait(timeout=300) for writer in writers] == [0, 0]
    assert objects(url) == contents(whole)


@pytest.mark.parametrize("after", [0, FILES_A_BATCH, FILES_A_BATCH + 1])
def test_killed_in_the_middle(after: int, bucket: str, whole: Path) -> None:
    url = f"{bucket}/killed-{after}"
    assert ended(start_writer(url, CLAIMS + after)) == -signal.SIGKILL
    assert len(read_dataset(open_storage(url)).batches) == after // FILES_A_BATCH
    archive(GIVEN, open_storage(url))
    assert objects(url) == contents(whole)
    assert merge(open_storage(url)) == (2, 2)


def test_a_question_of_a_bucket(bucket: str, whole: Path) -> None:
    def ask(dataset: str) -> Any:
        words = ["fleet", dataset, "stages", "--format", "json"]
        done = subprocess.run(
            [sys.executable, "-m", "balloontrace", *words],
            cwd=ROOT, capture_output=True, text=True, timeout=300, check=True,
        )  # fmt: skip
        return json.loads(done.stdout)["rows"]

    url = f"{bucket}/asked"
    words = ["archive", *map(str, GIVEN), "--to", url]
    subprocess.run([sys.executable, "-m", "balloontrace", *words], cwd=ROOT, timeout=300, check=True)
    assert ask(url) == ask(str(whole))
