# SPDX-License-Identifier: GPL-2.0-or-later
"""What `record` makes of how a recording went."""

from __future__ import annotations

import pytest

from balloontrace.commands.record import _tell
from balloontrace.errors import BalloontraceError
from balloontrace.format.balloon_size import BalloonSize
from balloontrace.trace.session import Ending, SessionResult


def test_a_command_that_fails_is_told() -> None:
    with pytest.raises(BalloontraceError, match="ended with status 3; the recording is complete"):
        _tell(SessionResult(Ending.COMMAND, command_status=3), "out.bt")


@pytest.mark.parametrize("ending", [Ending.INTERRUPTED, Ending.DURATION, Ending.OPERATIONS])
def test_a_command_that_was_ended_with_the_recording_has_not_failed(
    ending: Ending, capsys: pytest.CaptureFixture[str]
) -> None:
    _tell(SessionResult(ending, command_status=-2), "out.bt")  # Ctrl-C in a terminal goes to both
    assert capsys.readouterr().err.startswith(f"balloontrace: {ending}: ")


def test_the_last_words_say_how_far_a_balloon_is_off_its_target(
    capsys: pytest.CaptureFixture[str],
) -> None:
    balloons = (
        BalloonSize("virtio4", True, 107_776, 185_344),
        BalloonSize("virtio5", True, 5, 5),
        BalloonSize("virtio6", True, 5, None),
        BalloonSize("virtio7", present=False),
    )
    _tell(SessionResult(Ending.DURATION, balloons=balloons), "out.bt")
    first, last = capsys.readouterr().err.splitlines()
    assert first == ("balloontrace: the balloon of virtio4 holds 421 MiB of target 724 MiB, 303 MiB below it")
    assert last.startswith("balloontrace: duration reached")
