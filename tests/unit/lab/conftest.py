# SPDX-License-Identifier: GPL-2.0-or-later
"""What tests of the balloon device share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from backend_device import started
from frontend import (
    BIT_3,
    VERSION_1,
    Device,
    Frontend,
)

from lab.vhost import build_backend


@pytest.fixture(scope="session")
def build() -> Path:
    return build_backend(sanitize=True)


@pytest.fixture
def pfn_mode(build: Path, tmp_path: Path) -> Iterator[tuple[Device, Frontend]]:
    with started(build, tmp_path) as pair:
        yield pair


@pytest.fixture
def bitmap_mode(build: Path, tmp_path: Path) -> Iterator[tuple[Device, Frontend]]:
    with started(build, tmp_path, "--page-bitmap", features=VERSION_1 | BIT_3) as pair:
        yield pair


@pytest.fixture(scope="module")
def nonsense_pfn(build: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Device, Frontend]]:
    with started(build, tmp_path_factory.mktemp("n")) as pair:
        yield pair
