# SPDX-License-Identifier: GPL-2.0-or-later
"""Standard streams that are full, closed or gone, of real processes in a real shell."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import command_process
import command_tree
import pytest
from command_process import EXAMPLE, ROOT, sentence
from flows import typical_flow
from runs import TIMES, Setup, make_runs, scatter
from synthetic import recording_bytes

pytestmark = pytest.mark.thorough


@pytest.fixture
def untraceable(tmp_path: Path) -> dict[str, str]:
    return command_process.untraceable(tmp_path)


def shell(script: str) -> subprocess.CompletedProcess[str]:
    """A bash script in which `$RUN` is the command line and `$EXAMPLE` a recording."""
    env = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "RUN": f"{sys.executable} -m balloontrace",
        "EXAMPLE": EXAMPLE,
    }
    return subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, timeout=60, cwd=ROOT, env=env
    )


@pytest.mark.parametrize("verb", ["report $EXAMPLE", "export $EXAMPLE", "doctor --format json"])
def test_a_full_disk_behind_standard_output(verb: str) -> None:
    done = shell(f"$RUN {verb} > /dev/full")
    assert done.returncode == 1
    assert sentence(done) == "cannot use standard output: No space left on device"


@pytest.mark.parametrize("verb", ["report", "report --format json", "export"])
def test_a_reader_who_has_seen_enough_is_no_error(verb: str) -> None:
    done = shell(f"set -o pipefail; $RUN {verb} $EXAMPLE | head -c 5")
    assert (done.returncode, len(done.stdout), done.stderr) == (0, 5, "")


@pytest.mark.parametrize(
    ("words", "status"),
    [("report - <&-", 1), ("export - <&-", 1), ("report $EXAMPLE >&-", 0), ("report $EXAMPLE 2>&- >&-", 0)],
)
def test_streams_that_are_closed(words: str, status: int) -> None:
    done = shell(f"$RUN {words}")
    assert done.returncode == status
    assert "Traceback" not in done.stderr
    if status:
        assert sentence(done) == "standard input is empty: nothing was recorded"


NOBODY = ("> >(:)", "2> >(:)", "2>/dev/full", ">&- 2>&-")


def to_nobody(words: str, streams: str, environment: str = ":") -> subprocess.CompletedProcess[str]:
    """The reader is gone before anything is written; bash has no other way to wait for that than to sleep."""
    return shell(f"{environment}; (sleep 0.1; exec $RUN {words}) {streams}")


@pytest.mark.parametrize(
    ("words", "status", "streams"),
    [
        *(("report $CUT --max-lost 0", 5, streams) for streams in NOBODY),
        *(("report --no-such-option", 2, streams) for streams in NOBODY[1:]),
        ("doctor", 3, NOBODY[0]),
        ("doctor", 3, NOBODY[-1]),
    ],
)
def test_nobody_listening_fails_no_less(
    words: str, status: int, streams: str, untraceable: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "cut.bt").write_bytes(recording_bytes(typical_flow(), ended=False, lost=5))
    environment = f"CUT={tmp_path}/cut.bt; export PYTHONPATH={untraceable['PYTHONPATH']}"
    done = to_nobody(words, streams, environment)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr


def test_a_regression_nobody_listens_to(tmp_path: Path) -> None:
    for name, times in (("fast", TIMES), ("slow", replace(TIMES, send=9_000_000))):
        (tmp_path / name).mkdir()
        for number, run in enumerate(make_runs(Setup(times=times), scatter(5))):
            run.write(tmp_path / name, f"run-{number}")
    words = f"compare {tmp_path}/fast {tmp_path}/slow --fail-on-regression 5"
    done = to_nobody(words, NOBODY[0])
    assert done.returncode == 6, done.stderr


@pytest.mark.parametrize("form", ["table", "json", "html"])
def test_a_terminal_that_knows_few_characters(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)  # a long path would be on two lines
    Path("λ.bt").write_bytes(Path(EXAMPLE).read_bytes())
    words = ["report", "λ.bt", "--format", form]
    done = subprocess.run(
        [sys.executable, "-m", "balloontrace", *words], capture_output=True, timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "latin-1"},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
    if form == "table":
        assert b"?.bt" in done.stdout
    else:
        command_tree.run(capsys, *words, "-o", tmp_path / "out")
        assert done.stdout == (tmp_path / "out").read_bytes()
