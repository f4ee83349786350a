# SPDX-License-Identifier: GPL-2.0-or-later
"""A headless browser, spoken to over two pipes in the DevTools protocol: for looking at pages as people do.

Nothing but Debian's package is needed: requests and answers are JSON, each ended by a zero byte, on
descriptors 3 and 4 of the browser.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lab.errors import LabError
from lab.packages import Requirement, ensure_packages

TO_BROWSE = (
    Requirement("chromium-headless-shell", "chromium-headless-shell"),
    Requirement("fonts-dejavu-core", "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf"),
)
ANSWER_S = 60.0
_LOADED = """
new Promise(done => {
  if (document.readyState === 'complete') done();
  else addEventListener('load', () => done());
})
"""

Json = dict[str, Any]
Value = Any  # whatever JavaScript answers


class Page:
    """The one page of a browser.

    Since a file was opened, `complaints` has the errors and warnings of its console, `requests` what it
    loaded.
    """

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._to, self._from = to_browser, from_browser
        self._buffer = bytearray()
        self._last_id = 0
        self._session: str | None = None
        self.complaints: list[str] = []
        self.requests: list[str] = []
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")

    def open(self, file: Path, *, width_px: int = 1440, height_px: int = 900, dark: bool = False) -> None:
        """Load a file, as seen on a screen of this size; raises LabError when it cannot be."""
        self.complaints, self.requests = [], []
        scheme = "dark" if dark else "light"
        self._call(
            "Emulation.setDeviceMetricsOverride",
            width=width_px, height=height_px, deviceScaleFactor=1, mobile=width_px < 500,
        )  # fmt: skip
        self._call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        failed = self._call("Page.navigate", url=file.resolve().as_uri()).get("errorText")
        if failed:
            raise LabError(f"the browser cannot open {file}: {failed}")
        # Of the page that is there now: an event may be that of the one before.
        self.ask(_LOADED)

    def ask(self, expression: str) -> Value:
        """The value of a JavaScript expression in the page, as JSON has it. Raises LabError if it throws."""
        answer = self._call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise LabError(f"{expression[:60]}... threw {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def press(self, key: str) -> None:
        """Press and release a key, by its DevTools name."""
        for kind in ("keyDown", "keyUp"):
            self._call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=9)

    def screenshot(self, clip: tuple[float, float, float, float] | None = None) -> bytes:
        """The whole page as PNG, or of it x, y, width and height."""
        size = self._call("Page.getLayoutMetrics")["cssContentSize"]
        x, y, width, height = clip or (0, 0, size["width"], size["height"])
        answer = self._call(
            "Page.captureScreenshot",
            format="png", captureBeyondViewport=True,
            clip={"x": x, "y": y, "width": width, "height": height, "scale": 1},
        )  # fmt: skip
        return base64.b64decode(answer["data"])

    def pdf(self) -> bytes:
        """The page as it would be printed on A4."""
        return base64.b64decode(
            self._call("Page.printToPDF", paperWidth=8.27, paperHeight=11.69, printBackground=False)["data"]
        )

    def emulate_print(self) -> None:
        """Show the page as it is printed, until the next one is opened."""
        self._call("Emulation.setEmulatedMedia", media="print")

    def _call(self, method: str, **params: object) -> Json:
        self._last_id += 1
        request: Json = {"id": self._last_id, "method": method, "params": params}
        if self._session is not None:
            request["sessionId"] = self._session
        os.write(self._to, json.dumps(request).encode() + b"\0")
        while True:
            message = self._read()
            if message.get("id") == self._last_id:
                if "error" in message:
                    raise LabError(f"the browser refused {method}: {message['error'].get('message')}")
                result: Json = message["result"]
                return result
            self._note(message)

    def _note(self, message: Json) -> None:
        """Keep what the page complained of or asked for."""
        method, params = message.get("method", ""), message.get("params", {})
        if method == "Log.entryAdded" and params["entry"]["level"] in ("warning", "error"):
            self.complaints.append(params["entry"]["text"])
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("warning", "error", "assert"):
            self.complaints.append(str(params["args"]))
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(str(params["exceptionDetails"].get("text")))
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])

    def _read(self) -> Json:
        deadline_s = time.monotonic() + ANSWER_S
        while (end := self._buffer.find(b"\0")) < 0:
            ready, _, _ = select.select([self._from], [], [], max(0.0, deadline_s - time.monotonic()))
            piece = os.read(self._from, 1 << 20) if ready else b""
            if not piece:
                raise LabError("the browser has ended" if ready else "the browser does not answer")
            self._buffer += piece
        message: Json = json.loads(self._buffer[:end])
        del self._buffer[: end + 1]
        return message


@contextmanager
def browser() -> Iterator[Page]:
    """Start a browser, installing it if need be; it is gone when the context ends. Raises LabError."""
    ensure_packages(TO_BROWSE)
    profile = tempfile.mkdtemp(prefix="balloontrace-browser-")
    requests_out, requests_in = os.pipe()
    answers_out, answers_in = os.pipe()
    # A shell puts the pipes where the browser looks for them; they may be 3 and 4 here already.
    script = f'exec "$0" "$@" 3<&{requests_out} 4>&{answers_in}'
    process = subprocess.Popen(
        [
            "bash", "-c", script, "chromium-headless-shell", "--remote-debugging-pipe", "--no-first-run",
            "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
            f"--user-data-dir={profile}",
        ],
        pass_fds=(requests_out, answers_in), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(requests_out)
    os.close(answers_in)
    try:
        yield Page(requests_in, answers_out)
    finally:
        # The browser ends by itself once nobody holds the other end of its pipe.
        os.close(requests_in)
        os.close(answers_out)
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()
        process.wait()
        shutil.rmtree(profile, ignore_errors=True)
