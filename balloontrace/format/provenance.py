# SPDX-License-Identifier: GPL-2.0-or-later
"""The file beside recordings that `measure` made, which says on what they were made; `compare` reads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from balloontrace.untrusted import made_printable

NAME = "measure.json"
VERSION = 1
FIRST = "first"
"""The folder with the round that does not count."""


def read_provenance(folder: Path) -> dict[str, Any] | None:
    """What a folder's recordings were made on; None where it does not say, or not in JSON."""
    try:
        found = json.loads((folder / NAME).read_text())
    except (OSError, ValueError, RecursionError):
        return None
    return made_printable(found) if isinstance(found, dict) else None
