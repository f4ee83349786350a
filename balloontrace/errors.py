# SPDX-License-Identifier: GPL-2.0-or-later
"""Errors a user can fix: one sentence each, and the exit code that goes with it."""

from __future__ import annotations

import enum


class ExitCode(enum.IntEnum):
    """Exit statuses of the command line; documented in the README and held by tests."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    CANNOT_TRACE = 3
    MISSING_PROBE = 4
    DATA_LOST = 5
    REGRESSION = 6
    INTERRUPTED = 130


class BalloontraceError(Exception):
    """Something is wrong that one clear sentence explains; `str()` of it is that sentence."""

    exit_code = ExitCode.FAILURE


class UsageError(BalloontraceError):
    """The command line is invalid, or names a file that cannot be read."""

    exit_code = ExitCode.USAGE


class CannotTraceError(BalloontraceError):
    """Machine, kernel or user cannot trace a balloon."""

    exit_code = ExitCode.CANNOT_TRACE


class MissingProbeError(BalloontraceError):
    """A required probe point does not exist on this kernel."""

    exit_code = ExitCode.MISSING_PROBE


class DataLostError(BalloontraceError):
    """More was lost than the user allowed."""

    exit_code = ExitCode.DATA_LOST


class RegressionError(BalloontraceError):
    """Something became slower than the user allowed."""

    exit_code = ExitCode.REGRESSION


class RecordingError(BalloontraceError):
    """A file is not a recording, or nothing in it can be used."""
