# SPDX-License-Identifier: GPL-2.0-or-later
"""Layouts as Python has them, compared with what a C compiler makes of the headers of bpf/."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

from balloontrace.format.struct_layout import TYPE_BYTES
from balloontrace.format.vocabulary import c_definitions

C_DEFINITIONS = tuple(f"-D{name}={value}" for name, value in c_definitions().items())
BPF = Path(__file__).parents[2] / "bpf"
Fields = tuple[tuple[str, str, int], ...]


def assert_is_c(folder: Path, header: str, tables: Mapping[str, Fields], numbers: Mapping[str, int]) -> None:
    """Structures have these fields at these places; expressions, `sizeof` among them, have these values."""
    expected = dict(numbers)
    for struct, fields in tables.items():
        for name, kind, offset in fields:
            expected[f"offsetof(struct {struct}, {name})"] = offset
            expected[f"sizeof(((struct {struct} *)0)->{name})"] = TYPE_BYTES[kind]
    lines = "\n".join(f'printf("%zu\\n", (size_t)({expression}));' for expression in expected)
    source, program = folder / "layout.c", folder / "layout"
    source.write_text(
        f'#include <stdio.h>\n#include <stddef.h>\n#include "{BPF / header}"\n'
        f"int main(void) {{\n{lines}\nreturn 0; }}\n"
    )
    subprocess.run(["cc", "-Wall", "-Werror", *C_DEFINITIONS, "-o", program, source], check=True)
    said = subprocess.run([program], check=True, capture_output=True, text=True).stdout.split()
    assert dict(zip(expected, map(int, said), strict=True)) == expected
