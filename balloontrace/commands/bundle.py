# SPDX-License-Identifier: GPL-2.0-or-later
"""`balloontrace bundle`: one file to copy into a guest."""

from __future__ import annotations

import os
from pathlib import Path

import click

from balloontrace.console.option_types import OUTPUT
from balloontrace.console.output_file import open_output
from balloontrace.console.standard_streams import write_stdout
from balloontrace.console.stderr import say
from balloontrace.units import format_bytes

_MODE = 0o755


@click.command("bundle", short_help="Make one file that traces where nothing is installed.")
@click.option(
    "-o",
    "output",
    type=OUTPUT,
    default="balloontrace.pyz",
    show_default=True,
    help="The file, or - for stdout.",
)
@click.option("-f", "--force", is_flag=True, help="Let -o replace a file.")
def bundle(output: Path, *, force: bool) -> None:
    r"""Make one executable file with doctor, record and top --plain, for guests and hosts.

    There it needs Python 3.11 or newer and libbpf.so.1 (libbpf1 on Debian and Ubuntu), nothing else: BPF
    programs are in it, compiled for x86-64 and aarch64. Reports are made where balloontrace is installed.

    \b
    Examples:
      balloontrace bundle -o balloontrace.pyz
      balloontrace bundle -o - | ssh guest "cat > balloontrace.pyz"
    """
    from balloontrace.make_bundle import make_bundle
    from balloontrace.trace.engines.shipped import read_all

    if str(output) == "-":
        write_stdout([make_bundle(read_all())])
        return
    with open_output(output, force=force) as file:
        content = make_bundle(read_all())
        file.write([content])
        os.fchmod(file.fd, _MODE)
        file.publish()
    say(f"balloontrace: {output}: {format_bytes(len(content))}; run it with python3\n")
