# SPDX-License-Identifier: GPL-2.0-or-later
"""Compiling and attaching in a child, with a stand-in for bcc: what comes back, and the messages."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import click
import pytest
from fake_system import lay_out_bcc

from balloontrace.errors import CannotTraceError
from balloontrace.trace.engines.bcc import load
from balloontrace.trace.engines.causes import find_cause
from balloontrace.trace.engines.request import AttachError, Attachment, Loaded, LoadRequest
from balloontrace.trace.engines.shipped import bpf_folder

# What `engines/bcc_child` uses of bcc. A program is loaded into a descriptor of its own, each probe too;
# programs and symbols named in REFUSED are refused as the kernel does.
STAND_IN = """
import ctypes, os
__version__ = "0.31.0"
REFUSED = os.environ.get("REFUSED", "").split()

def refuse():
    ctypes.set_errno(22)
    return -1

class lib:
    def bpf_function_start(module, program):
        return 0 if program.decode() in os.environ.get("UNKNOWN", "").split() else 1
    def bpf_function_size(module, program): return 0
    def bpf_module_license(module): return b"GPL"
    def bpf_module_kern_version(module): return 0
    def bcc_func_load(module, kind, name, *rest):
        return refuse() if name.decode() in REFUSED else os.open("/dev/null", os.O_RDONLY)
    def bpf_attach_kfunc(program): return os.open("/dev/zero", os.O_RDONLY)
    def bpf_attach_kprobe(program, returns, event, name, address, offset):
        where = name.decode() if name else hex(address)
        return refuse() if where in REFUSED else os.open("/dev/zero", os.O_RDONLY)

class Map:
    def __init__(self): self.map_fd = os.memfd_create("map")

class BPF:
    KPROBE, TRACING = 2, 26
    module = 1
    def __init__(self, text, cflags):
        assert "int main" in text
        if "-DBROKEN=1" in cflags:
            os.write(2, b"guest.bpf.c:7: error: this is what clang says\\n")
            raise Exception("Failed to compile BPF module <text>")
        print("chatter on standard output")
        self.maps = {}
    def __getitem__(self, name): return self.maps.setdefault(name, Map())
"""

TELL_HOST = Attachment(
    "entry_tell_host", "tell_host", False, "kprobe", "tell_host", 0xC0400010, "virtio_balloon", True
)
MIGRATE = Attachment(
    "entry_virtballoon_migratepage", "virtballoon_migratepage", False, "fentry", "virtballoon_migratepage",
    0xC0400500, "virtio_balloon", False,
)  # fmt: skip


@pytest.fixture
def request_of_two(tmp_path: Path) -> LoadRequest:
    (tmp_path / "program.c").write_text("int main(void) { return 0; }\n")
    return LoadRequest(
        str(tmp_path / "program.c"), {"PAGES": 512}, (TELL_HOST, MIGRATE), ("spans", "counters")
    )


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, STAND_IN)


@pytest.fixture(autouse=True)
def _no_descriptor_is_left() -> Iterator[None]:
    before = open_descriptors()
    yield
    assert open_descriptors() <= before


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, init: str) -> None:
    """Makes `init` the package bcc of child processes."""
    monkeypatch.setenv("PYTHONPATH", str(lay_out_bcc(tmp_path / "python", init=init)))


def close(loaded: Loaded) -> None:
    fds = [*loaded.maps.values(), *loaded.programs.values(), *loaded.links]
    for fd in fds:
        os.close(fd)


def sentence(raised: pytest.ExceptionInfo[Exception]) -> str:
    text = str(raised.value)
    assert "Traceback" not in text
    assert "\n" not in text
    return text


@pytest.mark.usefixtures("stand_in")
def test_descriptors_arrive_under_their_names(request_of_two: LoadRequest) -> None:
    loaded = load(request_of_two)
    try:
        assert sorted(loaded.maps) == ["counters", "spans"]
        assert sorted(loaded.programs) == ["entry_tell_host", "entry_virtballoon_migratepage"]
        assert (len(loaded.links), loaded.failures, loaded.bcc_version) == (2, {}, "0.31.0")
        assert all(stat.S_ISREG(os.fstat(fd).st_mode) for fd in loaded.maps.values())
        null, zero = Path("/dev/null").stat().st_rdev, Path("/dev/zero").stat().st_rdev
        assert {os.fstat(fd).st_rdev for fd in loaded.programs.values()} == {null}
        assert {os.fstat(fd).st_rdev for fd in loaded.links} == {zero}
    finally:
        close(loaded)


@pytest.mark.usefixtures("stand_in")
def test_cost_of_setting_up_is_the_childs(request_of_two: LoadRequest) -> None:
    loaded = load(request_of_two)
    close(loaded)
    assert 0 < loaded.setup_cpu_ns < 60_000_000_000
    assert loaded.setup_peak_memory_bytes is not None
    assert 1 << 20 < loaded.setup_peak_memory_bytes < 1 << 30
    assert 0 < loaded.setup_wall_ns < 60_000_000_000


@pytest.mark.usefixtures("stand_in")
def test_a_program_of_two_places_is_loaded_once(request_of_two: LoadRequest) -> None:
    twice = (TELL_HOST, replace(TELL_HOST, address=TELL_HOST.address + 0x1000))
    loaded = load(replace(request_of_two, attachments=twice))
    close(loaded)
    assert (len(loaded.programs), len(loaded.links)) == (1, 2)


@pytest.mark.usefixtures("stand_in")
def test_a_symbol_without_address_is_attached_by_name(
    request_of_two: LoadRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REFUSED", "tell_host")
    with pytest.raises(AttachError, match="tell_host has no kprobe: Invalid argument"):
        load(replace(request_of_two, attachments=(replace(TELL_HOST, address=0),)))


@pytest.mark.usefixtures("stand_in")
def test_an_optional_probe_that_is_refused_is_noted(
    request_of_two: LoadRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REFUSED", "kfunc__virtio_balloon__virtballoon_migratepage")
    loaded = load(request_of_two)
    close(loaded)
    assert list(loaded.failures) == ["virtballoon_migratepage"]
    assert "Invalid argument" in loaded.failures["virtballoon_migratepage"]
    assert list(loaded.programs) == ["entry_tell_host"]


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize("refused", ["kretfunc", "kfunc"])
def test_neither_end_of_a_function_is_left_alone(
    request_of_two: LoadRequest, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    """LLVM 14's capture was refused on entry, and the return stayed attached alone."""
    on_return = replace(MIGRATE, program="exit_virtballoon_migratepage", returns=True)
    monkeypatch.setenv("REFUSED", f"{refused}__virtio_balloon__virtballoon_migratepage")
    loaded = load(replace(request_of_two, attachments=(on_return, MIGRATE, TELL_HOST)))
    close(loaded)
    assert list(loaded.failures) == ["virtballoon_migratepage"]
    assert (list(loaded.programs), len(loaded.links)) == (["entry_tell_host"], 1)


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize(
    ("variable", "value"), [("REFUSED", hex(TELL_HOST.address)), ("UNKNOWN", "entry_tell_host")]
)
def test_a_required_probe_that_is_refused(
    request_of_two: LoadRequest, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(AttachError) as raised:
        load(request_of_two)
    assert "tell_host" in sentence(raised)


@pytest.mark.usefixtures("stand_in")
def test_the_compilers_own_words(request_of_two: LoadRequest) -> None:
    with pytest.raises(CannotTraceError) as raised:
        load(replace(request_of_two, definitions={"BROKEN": 1}))
    text = sentence(raised)
    assert text.startswith("the BPF programs cannot be compiled: Failed to compile BPF module")
    assert "error: this is what clang says" in text


def test_a_bcc_that_cannot_be_imported(
    request_of_two: LoadRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch, "raise ImportError('libbcc.so.0: cannot open shared object file')")
    with pytest.raises(CannotTraceError) as raised:
        load(request_of_two)
    assert "libbcc.so.0: cannot open shared object file" in sentence(raised)


def test_no_bcc_at_all(request_of_two: LoadRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, "raise ModuleNotFoundError(\"No module named 'bcc'\")")
    with pytest.raises(CannotTraceError) as raised:
        load(request_of_two)
    assert sentence(raised) == "the BPF programs cannot be compiled: No module named 'bcc'"


@pytest.mark.parametrize(
    ("death", "ended"), [("os.kill(os.getpid(), 9)", "signal 9"), ("os._exit(7)", "status 7")]
)
def test_a_child_that_dies(
    request_of_two: LoadRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, death: str, ended: str
) -> None:
    install(tmp_path, monkeypatch, f"import os\nos.write(2, b'last words')\n{death}")
    with pytest.raises(CannotTraceError) as raised:
        load(request_of_two)
    assert f"ended with {ended}; it needs some" in sentence(raised)
    assert "last words" in sentence(raised)


@pytest.mark.usefixtures("stand_in")
def test_what_lies_in_the_current_folder_is_not_run(
    request_of_two: LoadRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`sudo balloontrace record` in a stranger's folder must not run the stranger's modules."""
    here = tmp_path / "here"
    (here / "balloontrace/trace/engines").mkdir(parents=True)
    for trap in (
        "balloontrace/__init__.py",
        "balloontrace/trace/engines/bcc_child.py",
        "json.py",
        "socket.py",
    ):
        (here / trap).write_text("import os; os._exit(66)")
    monkeypatch.chdir(here)
    close(load(request_of_two))


def test_the_sources_are_found_in_the_tree() -> None:
    assert (bpf_folder() / "guest.bpf.c").is_file()
    assert (bpf_folder() / "balloon_events.h").is_file()


# ---- why it was refused ----

VERIFIER = """
0: R1=ctx() R10=fp0
; int fentry_tell_host(u64 *ctx) @ main.c:12
0: (79) r6 = *(u64 *)(r1 +0)
func 'tell_host' arg0 has btf_id 112234 type STRUCT 'virtio_balloon'
1: R1=ctx() R6_w=trusted_ptr_virtio_balloon() R10=fp0
from 0 to 2: R2=scalar(smin=-1)
2: (85) call bpf_probe_read_kernel#113
R2 min value is negative, either use unsigned or 'var &= const'
processed 3 insns (limit 1000000) max_states_per_insn 0 total_states 0 peak_states 0 mark_read 0
"""


def test_the_cause_is_what_the_verifier_objects_to() -> None:
    assert find_cause(VERIFIER) == "R2 min value is negative, either use unsigned or 'var &= const'"


def test_the_cause_is_the_compilers_first_error() -> None:
    said = "from a.h:1\na.h:7:2: warning: w\nmain.c:9:1: error: unknown type\n  ^\n2 errors generated.\n"
    assert find_cause(said) == "main.c:9:1: error: unknown type"
    assert find_cause("") is None


NOTED = STAND_IN.replace("def refuse():", f"def refuse():\n    os.write(2, {VERIFIER.encode()!r})")


@pytest.mark.parametrize("verbose", [False, True])
def test_the_log_of_the_verifier_takes_v(
    request_of_two: LoadRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    verbose: bool,
) -> None:
    install(tmp_path, monkeypatch, NOTED)
    monkeypatch.setenv("REFUSED", hex(TELL_HOST.address))
    with click.Context(click.Command("record")) as ctx:
        ctx.meta["balloontrace.verbose"] = verbose
        with pytest.raises(AttachError) as raised:
            load(request_of_two)
    assert sentence(raised) == (
        "tell_host has no kprobe: Invalid argument "
        "(R2 min value is negative, either use unsigned or 'var &= const')"
    )
    assert ("call bpf_probe_read_kernel#113" in capsys.readouterr().err) is verbose
