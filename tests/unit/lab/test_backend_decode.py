# SPDX-License-Identifier: GPL-2.0-or-later
"""The device's decoder of page bitmaps against another one: every payload, valid or not, is read the same."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from bitmap_model import decode, payloads
from frontend import ENVIRONMENT, plain, word
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.vhost import build_backend

MAX_BYTES = 32768
ANY_PFN = st.one_of(
    st.integers(0, 2**52 - 1), st.integers(0, 200), st.integers(2**52 - 70, 2**52 - 1), st.just(2**51)
)


@pytest.fixture(scope="module")
def decoder() -> Path:
    return build_backend(sanitize=True) / "decode-payload"


def printed(decoder: Path, payload: bytes) -> list[str]:
    done = subprocess.run([decoder], input=payload, capture_output=True, env=ENVIRONMENT, check=True)
    assert done.stderr == b""
    return done.stdout.decode().splitlines()


@pytest.mark.thorough
@settings(max_examples=80, deadline=None)
@given(payload=payloads(ANY_PFN, st.integers(0, 51)))
def test_both_decoders_agree(decoder: Path, payload: bytes) -> None:
    assert printed(decoder, payload) == decode(payload).lines


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        word(0, 0) * (MAX_BYTES // 16),
        plain(5, 0) * (MAX_BYTES // 8),
        (word(64, 2**64 - 1) + plain(128, 3)) * (MAX_BYTES // 24),
        b"\xff" * MAX_BYTES,
        bytes(MAX_BYTES),
    ],
    ids=["nothing", "words", "plain", "both", "ones", "zeros"],
)
def test_shortest_and_longest(decoder: Path, payload: bytes) -> None:
    assert printed(decoder, payload) == decode(payload).lines


def test_too_long_is_refused(decoder: Path) -> None:
    done = subprocess.run([decoder], input=bytes(MAX_BYTES + 1), capture_output=True, env=ENVIRONMENT)
    assert done.returncode == 2


def test_runs_of_one_word(decoder: Path) -> None:
    assert printed(decoder, word(640, 0b1011 | 1 << 63)) == [
        "word 0 640 800000000000000b",
        "run 640 2",
        "run 643 1",
        "run 703 1",
    ]
