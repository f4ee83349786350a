# SPDX-License-Identifier: GPL-2.0-or-later
"""The image: its name says all that shapes it, and half-made ones are never taken for whole."""

from __future__ import annotations

import io
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest

from lab import image as image_module
from lab.build import STAGES, explain_failure, mmdebstrap_command, show_stages
from lab.cache import images_folder, locked
from lab.errors import LabError
from lab.image import (
    SOURCES,
    Image,
    build_image,
    image_key,
    parse_mounts_below,
    remove_unused,
    use_lock,
    using_image,
)
from lab.kernels import DEFAULT, IMAGES, ImageSpec
from lab.progress import Progress


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "balloontrace-lab"


def quiet() -> Progress:
    return Progress(io.StringIO())


def copy_sources(folder: Path) -> Path:
    folder.mkdir()
    for path in SOURCES.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def test_key_is_the_same_for_the_same_inputs(tmp_path: Path) -> None:
    assert image_key(ImageSpec()) == image_key(ImageSpec(), copy_sources(tmp_path / "copy"))


def test_key_does_not_depend_on_the_order_of_packages() -> None:
    assert image_key(ImageSpec(packages=("a", "b"))) == image_key(ImageSpec(packages=("b", "a")))


@pytest.mark.parametrize("name", sorted(path.name for path in SOURCES.iterdir()))
def test_key_changes_with_every_file_in_the_image(tmp_path: Path, name: str) -> None:
    sources = copy_sources(tmp_path / "copy")
    (sources / name).write_bytes((sources / name).read_bytes() + b"\n")
    assert image_key(ImageSpec(), sources) != image_key(ImageSpec())


def test_key_changes_with_packages_suite_builder_and_file_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    renamed = copy_sources(tmp_path / "renamed")
    (renamed / "init").rename(renamed / "init2")
    keys = {
        image_key(ImageSpec()),
        image_key(ImageSpec(suite="bookworm")),
        image_key(ImageSpec(packages=("gcc",))),
        image_key(ImageSpec(), renamed),
    }
    monkeypatch.setattr(image_module, "BUILDER_VERSION", image_module.BUILDER_VERSION + 1)
    keys.add(image_key(ImageSpec()))
    assert len(keys) == 5


def test_recipe_names_packages_mirrors_and_outputs(tmp_path: Path) -> None:
    command = mmdebstrap_command(
        ImageSpec("trixie", ("7.3", "6.12-rt"), ("gcc", "make"), "trixie-backports"),
        SOURCES,
        tmp_path / "w",
        tmp_path / "with space",
        ["mirror://one"],
        ['A::B "c";'],
    )
    assert "--include=gcc,make" in command
    assert command[-3:] == ["trixie", "/dev/null", "mirror://one"]
    assert '--aptopt=A::B "c";' in command
    hooks = [word for word in command if word.startswith("--customize-hook=")]
    assert any(f"copy-out /lab/kernels '{tmp_path}/with space'" in hook for hook in hooks)
    assert any(
        "'KERNELS=7.3 6.12-rt' KERNELS_FROM=trixie-backports HEADERS=yes PURGED=" in hook for hook in hooks
    )
    assert all(any(path.name in hook for hook in hooks) for path in SOURCES.iterdir())


def test_stages_come_from_what_mmdebstrap_says() -> None:
    shown = io.StringIO()
    lines = [
        *(f"{start} ...\n" for start, _ in STAGES),
        "5 newly installed\n",
        "Setting up gcc (1)\n",
        "noise\n",
    ]
    show_stages(lines, Progress(shown, clock=lambda: 0.0))
    assert [line.partition("] ")[2] for line in shown.getvalue().splitlines()] == [text for _, text in STAGES]


def test_bar_is_drawn_on_a_terminal_only() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen, log = Terminal(), io.StringIO()
    for stream in (screen, log):
        progress = Progress(stream, clock=lambda: 1.0)
        progress.step(3, 4, "gcc")
        progress.step(4, 4, "make")
        progress.close()
    assert "##################...... 3/4 gcc" in screen.getvalue()
    assert "4/4 make" in screen.getvalue()
    assert log.getvalue() == ""


def test_a_full_disk_is_one_sentence() -> None:
    message = explain_failure(1, "noise\ntar: write error: No space left on device\nnoise")
    assert "no space left" in message
    assert "\n" not in message


def test_a_failed_build_leaves_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_spec: object, _sources: Path, result: Path, _progress: object) -> None:
        (result / "root.ext4").write_bytes(b"half")
        raise LabError("interrupted")

    monkeypatch.setattr(image_module, "build_tree", fails)
    monkeypatch.setattr(image_module, "ensure_packages", lambda _wanted, _progress: None)
    monkeypatch.setattr(image_module, "NEEDED_BYTES", 0)
    with pytest.raises(LabError, match="interrupted"), using_image(ImageSpec(), quiet()):
        pass
    assert [path for path in (cache / "images").iterdir() if path.is_dir()] == []


@pytest.mark.usefixtures("cache")
def test_a_new_image_replaces_old_and_half_made_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    def builds(_spec: object, _sources: Path, result: Path, _progress: object) -> None:
        assert not (images_folder() / "killed.partial").exists()
        assert result.is_dir()

    monkeypatch.setattr(image_module, "build_tree", builds)
    monkeypatch.setattr(image_module, "ensure_packages", lambda _wanted, _progress: None)
    monkeypatch.setattr(image_module, "NEEDED_BYTES", 0)
    for name in ("killed.partial", "old", "old-in-use", "used-today"):
        (images_folder() / name).mkdir()
        use_lock(images_folder() / name).touch()
        if name != "used-today":
            os.utime(use_lock(images_folder() / name), (0, 0))
    new = Image(images_folder() / "new")
    with locked(use_lock(images_folder() / "old-in-use"), shared=True):
        build_image(ImageSpec(), new, quiet())
    names = sorted(path.name for path in images_folder().iterdir() if path.is_dir())
    assert names == ["new", "old-in-use", "used-today"]
    assert remove_unused() == []
    assert not new.folder.exists()


def test_too_little_space_is_one_sentence(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_module, "ensure_packages", lambda _wanted, _progress: None)
    monkeypatch.setattr(image_module, "NEEDED_BYTES", 1 << 60)
    with pytest.raises(LabError, match="set XDG_CACHE_HOME") as refused:
        build_image(ImageSpec(), Image(images_folder() / "new"), quiet())
    assert str(cache) in str(refused.value)


def test_what_is_mounted_below_a_folder_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "a b"
    escaped = str(folder).replace(" ", "\\040")
    lines = [
        f"1 2 0:3 / {point} rw - tmpfs none rw" for point in ("/", escaped, f"{escaped}/proc", f"{escaped}c")
    ]
    assert parse_mounts_below("\n".join(lines), folder) == [escaped, f"{escaped}/proc"]


def test_a_failed_build_does_not_name_the_mirror() -> None:
    output = (
        "Err:4 http://user:secret@mirror.example:8080/debian trixie/main gcc Not Found [IP: 192.0.2.7 80]\n"
        "E: Failed to fetch http://mirror.example:8080/debian/pool/gcc_12.deb  404\n"
        "Could not connect to proxy.example:3142 (192.0.2.9). Could not resolve 'other.example'\n"
        "E: Unable to locate package nope\n"
    )
    message = explain_failure(100, output)
    assert not re.search(r"example|192\.0|secret|debian/", message)
    assert "Failed to fetch ARCHIVE/gcc_12.deb  404" in message
    assert "E: Unable to locate package nope" in message


def test_the_kernels_of_an_image_share_it() -> None:
    assert image_key(IMAGES["trixie-7.3"]) == image_key(IMAGES["trixie-6.12-rt"])
    assert IMAGES["trixie-7.3"].kernel == "7.3"
    assert IMAGES[DEFAULT] == replace(ImageSpec(), booted=ImageSpec().kernel)
    assert image_key(IMAGES[DEFAULT]) == image_key(ImageSpec())
    assert len({image_key(spec) for spec in IMAGES.values()}) == 11


def test_no_compiler_and_no_headers_are_in_a_bare_image() -> None:
    for name, spec in IMAGES.items():
        assert spec.headers != ("-bare-" in name)
        assert ("gcc" in set(spec.packages) - set(spec.purged)) == spec.headers
