# SPDX-License-Identifier: GPL-2.0-or-later
"""Three cells of `make matrix`, an old kernel and the newest among them: no headers, no compiler, no bcc."""

from __future__ import annotations

import pytest

from lab.matrix import Cell, try_cell
from lab.progress import Progress


@pytest.mark.parametrize("image", ["bookworm-bare-6.1", "trixie-bare-6.12", "trixie-bare-7"])
def test_a_kernel_without_anything_to_compile_with_is_recorded_to_the_page(image: str) -> None:
    seen = try_cell(Cell(image, "prebuilt"), Progress())
    assert seen.faults == ()
    assert seen.kernel.startswith(image.rpartition("-")[2] + ".")
    assert seen.engine_version.startswith("libbpf 1.")
