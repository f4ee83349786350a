# SPDX-License-Identifier: GPL-2.0-or-later
"""A library that is not there: one sentence with what to install, and what does without goes on."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from blocked_libraries import unloaded
from fake_system import lay_out_foreign_bcc

from balloontrace.console.missing_libraries import LIBRARIES, explain_import_error

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
GUEST, HOST = (str(ROOT / "examples" / f"nested-bitmap-{side}.bt") for side in ("guest", "host"))

pytestmark = pytest.mark.thorough


@pytest.fixture(scope="module", autouse=True)
def _loaded() -> None:
    """No library is loaded for the first time while another is missing: its parts would be left behind."""
    for name in ("jinja2", "pandas", "rich.console", "scipy.stats", "tabulate"):
        importlib.import_module(name)


# What the words after the first run without: the libraries that its first word names.
BLOCKING = """
import sys
from blocked_libraries import Blocker
sys.meta_path.insert(0, Blocker(sys.argv.pop(1).split(",")))
from balloontrace.__main__ import main
main()
"""


def run_without(
    *libraries: str, words: tuple[str, ...], python_path: str = ""
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", BLOCKING, ",".join(libraries), *words],
        capture_output=True, text=True, timeout=60, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(HERE), python_path])},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("library", "words"),
    [
        ("click", ("doctor",)),
        ("tabulate", ("report", GUEST)),
        ("tabulate", ("export", GUEST, "--format", "markdown")),
        ("tabulate", ("compare", GUEST, GUEST)),
        ("numpy", ("report", GUEST)),
        ("numpy", ("report", GUEST, "--format", "json")),
        ("numpy", ("export", GUEST)),
        ("numpy", ("compare", GUEST, GUEST)),
        ("scipy", ("compare", GUEST, GUEST)),
        ("pandas", ("compare", GUEST, GUEST)),
        ("jinja2", ("report", GUEST, "--format", "html")),
        ("markupsafe", ("report", GUEST, "--format", "html")),
        ("jinja2", ("compare", GUEST, GUEST, "--format", "html")),
    ],
)
def test_one_sentence_says_what_to_install(
    library: str,
    words: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", ["balloontrace", *words])
    with unloaded(library), pytest.raises(SystemExit) as ended:
        importlib.import_module("balloontrace.__main__").main()
    stdout, stderr = capsys.readouterr()
    status = ended.value.code
    if isinstance(status, str):  # which Python writes there as it ends
        status, stderr = 1, stderr + f"{status}\n"
    assert (status, stdout) == (1, "")
    assert stderr == (
        f"balloontrace: this needs {library}, which is not installed for this python3: "
        f"install python3-{library} (Debian, Ubuntu) or {library} (pip)\n"
    )


@pytest.mark.parametrize("library", ["fsspec", "pyarrow"])
def test_heavy_ones_come_with_an_extra(library: str, tmp_path: Path) -> None:
    done = run_without(library, words=("archive", GUEST, "--to", str(tmp_path)))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == _brought_by(library, "fleet")


def _brought_by(library: str, extra: str) -> str:
    return (
        f"balloontrace: this needs {library}, which is not installed for this python3: "
        f"pip install 'balloontrace[{extra}]' brings it\n"
    )


@pytest.mark.parametrize(
    ("library", "engine"), [("ibis", "duckdb"), ("duckdb", "duckdb"), ("pyspark", "local[1]")]
)
def test_engines_come_with_an_extra(library: str, engine: str, tmp_path: Path) -> None:
    run_without("", words=("archive", GUEST, "--to", str(tmp_path)))
    done = run_without(library, words=("fleet", str(tmp_path), "slowest", "--engine", engine))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == _brought_by(library, "spark" if library == "pyspark" else "fleet")


@pytest.mark.parametrize(
    "words", [("doctor",), ("doctor", "--side", "host"), ("record", "-o", "/dev/null", "--side", "guest")]
)
def test_what_traces_needs_click_alone(words: tuple[str, ...], tmp_path: Path) -> None:
    foreign_bcc = str(lay_out_foreign_bcc(tmp_path))
    done = run_without(*LIBRARIES, words=words, python_path=foreign_bcc)
    assert "Traceback" not in done.stderr
    assert "this needs" not in done.stderr
    assert done.returncode == (2 if words[0] == "record" else 3)  # /dev/null is there already
    if words == ("doctor", "--side", "host"):
        rows = [line.split() for line in done.stdout.splitlines()]
        assert ["stage", "function", "attached", "with"] in rows


def test_what_needs_few_libraries_works_without_the_others() -> None:
    others = LIBRARIES - {"numpy"}
    assert run_without(*others, words=("report", GUEST, HOST, "--format", "csv")).returncode == 0


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ModuleNotFoundError("No module named 'rich'", name="rich.console"), "this needs rich, which is not"),
        (ImportError("cannot import name 'x' from 'scipy.stats'", name="scipy.stats"), "this needs scipy"),
        # As pandas says it.
        (ImportError("Unable to import required dependencies:\nnumpy: No module"), "this needs numpy"),
    ],
)
def test_errors_that_name_the_library_in_other_ways(error: ImportError, said: str) -> None:
    assert (explain_import_error(error) or "").startswith(said)


def test_a_fault_of_this_package_is_not_a_missing_library() -> None:
    assert (
        explain_import_error(ModuleNotFoundError("No module named 'balloontrace.x'", name="balloontrace.x"))
        is None
    )
