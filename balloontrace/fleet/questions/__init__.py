# SPDX-License-Identifier: GPL-2.0-or-later
"""The stock questions. Each module of this folder is one, by its name, and is found by being here."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from balloontrace.fleet.question import Question


@cache
def questions() -> dict[str, Question]:
    """All there are, by name."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return {name: importlib.import_module(f"{__name__}.{name}").QUESTION for name in names}
