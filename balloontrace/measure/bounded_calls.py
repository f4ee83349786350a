# SPDX-License-Identifier: GPL-2.0-or-later
"""Calls into a library that may never return: made by a thread of their own, and not waited for longer."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

_T = TypeVar("_T")
_BEHIND_ANOTHER_S = 2.0


class BoundedCalls:
    """One thread that makes calls, in the order they come; it does not keep this process from ending.

    A signal ends the wait as well, which it would not if the library waited in the main thread. Behind a call
    that was given up, and has not ended, others are hardly waited for.
    """

    def __init__(self, name: str, patience_s: float) -> None:
        self._patience_s = patience_s
        self._hangs = False
        self._calls: SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = SimpleQueue()
        threading.Thread(target=self._make_calls, name=name, daemon=True).start()

    def ask(self, call: Callable[[], _T], patience_s: float | None = None) -> _T:
        """What the call returns or raises. TimeoutError without an answer in time; None: as ever.

        A call that nobody waits for any more, and that has not begun, is not made.
        """
        future: Future[_T] = Future()
        self._calls.put((future, call))
        patience_s = self._patience_s if patience_s is None else patience_s
        try:
            return future.result(min(patience_s, _BEHIND_ANOTHER_S) if self._hangs else patience_s)
        except TimeoutError:
            self._hangs = not future.done()
            raise
        finally:
            future.cancel()  # does nothing to what has begun

    def _make_calls(self) -> None:
        while True:
            future, call = self._calls.get()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(call())
            except BaseException as error:
                future.set_exception(error)
            self._hangs = False
