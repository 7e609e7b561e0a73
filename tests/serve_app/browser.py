"""Headless Chromium, driven through its DevTools protocol: as much of it as the page's tests need."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
# Only for a test that would otherwise never end.
PATIENCE = 60.0


class Tab:
    """One page and everything that it complained of."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._count = 0
        self._session = ""
        self._loads = 0
        self.complaints: list[str] = []
        self.hosts: set[str] = set()
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")

    def open(self, url: str, *, width: int = 1280, height: int = 900, scheme: str = "light") -> None:
        """Go to an address in a window of that size, under a light or dark colour scheme."""
        self._call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        self._call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        loads = self._loads
        self._call("Page.navigate", url=url)
        while self._loads == loads:
            self._receive()

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression; a promise is awaited."""
        found = self._call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in found:
            raise AssertionError(f"{expression}: {found['exceptionDetails']}")
        return found["result"].get("value")

    def wait_for(self, condition: str) -> Any:
        """The value of a JavaScript expression as soon as it is truthy."""
        return self.evaluate(
            f"new Promise((done, fail) => {{ const late = Date.now() + {1000 * PATIENCE};"
            f" const look = () => {{ const value = ({condition});"
            " if (value) done(value); else if (Date.now() > late) fail(new Error(document.body.innerText));"
            " else setTimeout(look, 20); }; look(); })"
        )

    def type_into(self, selector: str, text: str) -> None:
        """Replace what stands in a field by text, as if typed."""
        self.evaluate(f"document.querySelector({json.dumps(selector)}).select()")
        self.evaluate(f"document.querySelector({json.dumps(selector)}).focus()")
        self._call("Input.insertText", text=text)

    def screenshot(self, path: Path) -> None:
        """The whole page as a PNG."""
        found = self._call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(found["data"]))

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        self._count += 1
        session = {"sessionId": self._session} if self._session else {}
        self._connection.send(json.dumps({"id": self._count, "method": method, "params": params} | session))
        while True:
            message = self._receive()
            if message.get("id") == self._count:
                if "error" in message:
                    raise AssertionError(f"{method}: {message['error']}")
                return dict(message["result"])

    def _receive(self) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(self._connection.recv(timeout=2 * PATIENCE))
        self._note(message)
        return message

    def _note(self, message: dict[str, Any]) -> None:
        method, params = message.get("method"), message.get("params", {})
        if method == "Page.loadEventFired":
            self._loads += 1
        if method == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(params["exceptionDetails"]))
        if method == "Log.entryAdded":
            self.complaints.append(params["entry"]["text"])
        if method == "Network.requestWillBeSent" and params["request"]["url"].startswith("http"):
            self.hosts.add(params["request"]["url"].split("/")[2])


def find_browser() -> str | None:
    """Path of a Chromium, if one is installed."""
    return next((found for found in map(shutil.which, NAMES) if found), None)


@contextmanager
def run_browser(program: str, folder: Path) -> Iterator[Tab]:
    """A tab of a fresh headless Chromium with its profile in `folder`."""
    command = [program, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    command += ["--disable-background-networking", "--remote-debugging-port=0", f"--user-data-dir={folder}"]
    with subprocess.Popen([*command, "about:blank"], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            address = next(line.split()[-1] for line in process.stderr if line.startswith("DevTools listening on"))
            with connect(address, max_size=None) as connection:
                yield Tab(connection)
        finally:
            process.kill()
