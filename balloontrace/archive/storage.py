# SPDX-License-Identifier: GPL-2.0-or-later
"""A folder, or an object store by its URL: whole files appear under their names, or not at all."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import fsspec
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from balloontrace.errors import BalloontraceError, UsageError
from balloontrace.untrusted import printable

_UNFINISHED = ".part"
_LONGEST_REASON = 300
_AT_A_TIME = 16  # requests, each of which waits for an object store


@dataclass(frozen=True, slots=True)
class Storage:
    """Files below `root`; names are relative to it, with `/` between their parts."""

    url: str
    files: fsspec.AbstractFileSystem
    root: str

    def put(self, name: str, content: bytes) -> None:
        """Write a file, in place of one of the same name. BalloontraceError where that is refused.

        An object store shows an object once it is whole. In a folder it is renamed then.
        """
        path = self._path(name)
        with _explained(f"cannot write {printable(path)}"):
            if not isinstance(self.files, LocalFileSystem):
                self.files.pipe_file(path, content)
                return
            _put_file(Path(path), content)

    def get(self, name: str) -> bytes:
        """The content of a file. BalloontraceError where it cannot be read."""
        with _explained(f"cannot read {printable(self._path(name))}"):
            return bytes(self.files.cat_file(self._path(name)))

    def get_all(self, names: Sequence[str]) -> dict[str, bytes]:
        """The content of many files, some at a time; without those that are gone. Errors as `get`."""
        workers = 1 if isinstance(self.files, LocalFileSystem) else _AT_A_TIME
        with ThreadPoolExecutor(workers) as pool:
            found = dict(zip(names, pool.map(self._get_if_there, names), strict=True))
        return {name: content for name, content in found.items() if content is not None}

    def _get_if_there(self, name: str) -> bytes | None:
        path = self._path(name)
        with _explained(f"cannot read {printable(path)}"), suppress(FileNotFoundError):
            return bytes(self.files.cat_file(path))
        return None

    def remove(self, name: str) -> None:
        """Remove a file; that it is gone already is no error. BalloontraceError where that is refused."""
        path = self._path(name)
        with _explained(f"cannot remove {printable(path)}"), suppress(FileNotFoundError):
            self.files.rm_file(path)

    def find(self, folder: str, ending: str) -> list[str]:
        """The names of all files below a folder that end so, in order; none where there is no folder."""
        with _explained(f"cannot read {printable(self._path(folder))}"):
            self.files.invalidate_cache()  # of listings: others write, too
            found = self.files.find(self._path(folder))
            if not found:  # as it is, too, where listing failed: that is left out without a word
                with suppress(FileNotFoundError, NotADirectoryError):
                    self.files.ls(self._path(folder))
        start = len(self.root.rstrip("/")) + 1
        return sorted(path[start:] for path in found if path.endswith(ending))

    def locate(self, name: str) -> str:
        """Where other programs find a file: a path, or a URL."""
        path = self._path(name)
        return path if isinstance(self.files, LocalFileSystem) else str(self.files.unstrip_protocol(path))

    def _path(self, name: str) -> str:
        return f"{self.root.rstrip('/')}/{name}"


def open_storage(url: str) -> Storage:
    """What a path or URL names; nothing is made or read. UsageError for an unknown kind of URL."""
    scheme, separator, _ = url.partition("://")
    if not url.strip():  # as a path, the current folder
        raise UsageError("the name of the dataset is empty")
    if separator and not scheme:
        raise UsageError(f"{printable(url)} names no dataset: give a folder or a URL")
    try:
        files, root = url_to_fs(url)
    except (ValueError, ImportError) as error:
        raise UsageError(f"{printable(url)} cannot be used: {_one_line(error)}") from error
    except Exception as error:  # some connect at once
        raise BalloontraceError(f"cannot reach {printable(url)}: {_one_line(error)}") from error
    if isinstance(files, LocalFileSystem) and Path(root).exists() and not Path(root).is_dir():
        raise UsageError(f"{printable(url)} is a file, and a dataset is a folder; give another name")
    return Storage(url, files, root)


def _put_file(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(8)}{_UNFINISHED}")
    try:
        unfinished.write_bytes(content)
        unfinished.replace(path)
    except BaseException:
        with suppress(OSError):
            unfinished.unlink()
        raise


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Whatever a file system raises, as one sentence."""
    try:
        yield
    except BalloontraceError:
        raise
    except OSError as error:
        raise BalloontraceError(f"{what}: {error.strerror or _one_line(error)}") from error
    except Exception as error:  # a client of an object store has errors of its own
        raise BalloontraceError(f"{what}: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    words = printable(" ".join(str(error).split())) or type(error).__name__
    return words[:_LONGEST_REASON]
