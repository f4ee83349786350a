# SPDX-License-Identifier: GPL-2.0-or-later
"""Libraries that only some commands need: what to install where one is not there."""

from __future__ import annotations

_DEBIAN_PACKAGES = {
    "jinja2": "python3-jinja2",
    "markupsafe": "python3-markupsafe",
    "numpy": "python3-numpy",
    "pandas": "python3-pandas",
    "rich": "python3-rich",
    "scipy": "python3-scipy",
    "tabulate": "python3-tabulate",
}
# Heavy ones, which only these extras bring; Debian has not all of them.
_EXTRAS = {
    **dict.fromkeys(("duckdb", "fsspec", "ibis", "pyarrow"), "fleet"),
    "prometheus_client": "serve",
    **dict.fromkeys(("google", "grpc", "grpc_status", "pyspark", "zstandard"), "spark"),
}
LIBRARIES = frozenset({*_DEBIAN_PACKAGES, *_EXTRAS})
"""The top-level modules of all libraries beside click; pip knows those without an extra by that name."""


def explain_import_error(error: ImportError) -> str | None:
    """One sentence on what to install; None when no library is to blame but this package itself."""
    if isinstance(error.__cause__, ImportError):  # newer pandas names numpy so
        return explain_import_error(error.__cause__)
    library = _library(error)
    if library is None:
        return None
    fix = _fix(library)
    if isinstance(error, ModuleNotFoundError):
        return f"this needs {library}, which is not installed for this python3: {fix}"
    # It is there, and too old, or broken: by its first line, for numpy writes a page.
    reason = (str(error).strip() or "no reason given").splitlines()[0]
    return f"this needs {library}, which cannot be used ({reason}): {fix}"


def _fix(library: str) -> str:
    if library in _EXTRAS:
        return f"pip install 'balloontrace[{_EXTRAS[library]}]' brings it"
    return f"install {_DEBIAN_PACKAGES[library]} (Debian, Ubuntu) or {library} (pip)"


def _library(error: ImportError) -> str | None:
    """The library to blame: by the module's name, else by the words, in which older pandas names numpy."""
    named = (error.name or "").partition(".")[0]
    if named:
        return named if named in LIBRARIES else None
    return next((library for library in sorted(LIBRARIES) if library in str(error)), None)
