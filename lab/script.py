# SPDX-License-Identifier: GPL-2.0-or-later
"""How programs run whose settings are variables of the environment (ONLY, SIZE): `--help` starts nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NoReturn

import click


def run(main: Callable[[], int], about: str | None) -> NoReturn:
    """Exits with what `main` returns; with 0 after `--help` shows `about`, with 2 after any other word."""

    def call() -> None:
        sys.exit(main())

    click.command(help=about)(call)()
    raise AssertionError("a click command does not return")
