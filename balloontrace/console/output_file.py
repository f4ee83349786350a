# SPDX-License-Identifier: GPL-2.0-or-later
"""A file that appears under its name only when it is wanted, and never in place of another by accident."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType

from balloontrace.console.standard_streams import encoded, write_stdout
from balloontrace.errors import BalloontraceError, UsageError

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def names_folder(text: str) -> bool:
    """Whether what somebody typed can only be a folder: a path has no end that says so."""
    return text.endswith(("/", "/."))


def parse_file_name(text: str) -> Path:
    """The file that somebody names. UsageError for the name of a folder, or none."""
    if not text:
        raise UsageError("an empty name is no file name; give one with -o")
    if names_folder(text):
        raise UsageError(f"{text} names a folder, and this is one file; give the name of a file with -o")
    return Path(text)


def open_output(path: Path, *, force: bool) -> OutputFile:
    """Start a file which `publish` will give the name `path`.

    It is created beside its final place under a private name, mode 600, and belongs to the user behind
    sudo. `force` allows replacing a regular file, nothing else: no symbolic link is followed.

    Raises UsageError when the name is taken, is no file name, or its folder does not exist, and
    BalloontraceError when the system refuses.
    """
    if not path.name:
        raise UsageError(f"{path} is not a file name; give one with -o")
    try:
        folder_fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise UsageError(f"cannot write into the folder {path.parent}: {error.strerror}") from error
    try:
        _refuse_taken_name(path, folder_fd, force=force)
        return OutputFile(path, folder_fd, force=force)
    except OSError as error:
        os.close(folder_fd)
        raise BalloontraceError(f"cannot create {path}: {error.strerror}") from error
    except BaseException:
        os.close(folder_fd)
        raise


class OutputFile:
    """A file being written; as a context it removes what was never published. Made by `open_output`."""

    def __init__(self, path: Path, folder_fd: int, *, force: bool) -> None:
        self.path = path
        self._folder_fd = folder_fd
        self._force = force
        self._name = f".balloontrace-{secrets.token_hex(8)}.part"
        self._published = False
        self._replaced = ""
        self.fd = os.open(self._name, _CREATE, 0o600, dir_fd=folder_fd)
        try:
            give_to_sudo_user(self.fd)
        except BaseException:
            self.discard()
            os.close(self.fd)
            raise

    def __enter__(self) -> OutputFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._published:
            self.discard()
        self.close()

    def write(self, pieces: Iterable[str] | Iterable[bytes]) -> None:
        """Write one after the other, text as UTF-8. BalloontraceError when the system refuses."""
        try:
            with open(self.fd, "wb", closefd=False) as stream:
                stream.writelines(map(encoded, pieces))
        except OSError as error:
            raise BalloontraceError(f"cannot write {self.path}: {error.strerror}") from error

    def publish(self) -> None:
        """Give the file its final name; what is written later still goes there. Errors as `open_output`."""
        if self._published:
            return
        try:
            if self._force:
                _refuse_taken_name(self.path, self._folder_fd, force=True)
                self._keep_replaced()
            else:
                # Claims the name first: unlike a hard link this works on every file system.
                os.close(os.open(self.path.name, _CREATE, 0o600, dir_fd=self._folder_fd))
            self._rename(self.path.name)
        except FileExistsError as error:
            raise _taken(self.path) from error
        except OSError as error:
            raise BalloontraceError(f"cannot create {self.path}: {error.strerror}") from error
        self._published = True

    def discard(self) -> None:
        """Remove the file, whatever it is called by now; a file of that name that is not ours stays.

        What it had replaced is there again.
        """
        try:
            found = os.stat(self._name, dir_fd=self._folder_fd, follow_symlinks=False)
            if not os.path.samestat(found, os.fstat(self.fd)):
                return
            if self._published and self._replaced:
                os.replace(self._replaced, self._name, src_dir_fd=self._folder_fd, dst_dir_fd=self._folder_fd)
            else:
                os.unlink(self._name, dir_fd=self._folder_fd)
        except OSError:
            return  # Already gone, or the folder is: either way nothing of ours is left to remove.

    def close(self) -> None:
        """Close the file, and let go of what it replaced; calling it again does nothing."""
        if self._replaced:
            with suppress(OSError):
                os.unlink(self._replaced, dir_fd=self._folder_fd)
            self._replaced = ""
        for fd in (self.fd, self._folder_fd):
            if fd >= 0:
                os.close(fd)
        self.fd = self._folder_fd = -1

    def _keep_replaced(self) -> None:
        """Give what is going to be replaced a second name, where the file system has hard links."""
        with suppress(OSError):
            kept = f"{self._name}.replaced"
            os.link(
                self.path.name, kept, src_dir_fd=self._folder_fd, dst_dir_fd=self._folder_fd,
                follow_symlinks=False,
            )  # fmt: skip
            self._replaced = kept

    def _rename(self, name: str) -> None:
        os.replace(self._name, name, src_dir_fd=self._folder_fd, dst_dir_fd=self._folder_fd)
        self._name = name


def write_output(
    pieces: Iterable[str] | Iterable[bytes], path: Path | None, *, force: bool, for_people: bool = False
) -> None:
    """Write to a file as `write_files`, or to standard output for None and `-`."""
    if path is None or str(path) == "-":
        write_stdout(pieces, for_people=for_people)
    else:
        write_files({path: pieces}, force=force)


def refuse_own_input(output: Path | None, inputs: Iterable[Path]) -> None:
    """UsageError where `output` is a file that is read, `-` being standard input: -f would destroy it."""
    for path in inputs:
        with suppress(OSError):
            read = os.fstat(0) if str(path) == "-" else path.stat()
            if output is not None and os.path.samestat(read, output.stat()):
                raise UsageError(f"{output} is a recording that is read here; give another name with -o")


def write_files(files: Mapping[Path, Iterable[str] | Iterable[bytes]], *, force: bool) -> None:
    """Write files that get their names only when all are written. Errors as `open_output`."""
    with ExitStack() as stack:
        opened = [stack.enter_context(open_output(path, force=force)) for path in files]
        for file, pieces in zip(opened, files.values(), strict=True):
            file.write(pieces)
        for file in opened:
            file.publish()


def _refuse_taken_name(path: Path, folder_fd: int, *, force: bool) -> None:
    try:
        found = os.stat(path.name, dir_fd=folder_fd, follow_symlinks=False)
    except FileNotFoundError:
        return
    if not force:
        raise _taken(path)
    if not stat.S_ISREG(found.st_mode):
        raise UsageError(f"{path} is not a regular file, so -f does not replace it; give another name")


def _taken(path: Path) -> UsageError:
    return UsageError(f"{path} exists already; give another name, or -f to replace it")


def give_to_sudo_user(fd: int) -> None:
    """Have a file or folder that root made belong to the user behind sudo."""
    uid, gid = os.environ.get("SUDO_UID", ""), os.environ.get("SUDO_GID", "")
    if os.geteuid() == 0 and uid.isdecimal() and gid.isdecimal():
        os.fchown(fd, int(uid), int(gid))
