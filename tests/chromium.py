"""A real browser, driven over its DevTools protocol: what people will see, measured."""

import asyncio
import base64
import itertools
import json
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tornado.websocket import WebSocketClientConnection, websocket_connect

PROGRAM = shutil.which("chromium") or shutil.which("chromium-headless-shell")
WITHIN_S = 60.0
_FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
    *("--disable-background-networking", "--disable-component-update", "--no-first-run"),
    *("--disable-extensions", "--hide-scrollbars", "--remote-debugging-port=0"),
    *("--font-render-hinting=none", "--force-device-scale-factor=1"),
)


class Page:
    """One tab."""

    def __init__(self, socket: WebSocketClientConnection) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)

    async def call(self, method: str, **params: Any) -> Any:
        """Give an order and return its result."""
        number = next(self._numbers)
        await self._socket.write_message(
            json.dumps({"id": number, "method": method, "params": params})
        )
        while True:
            said = await asyncio.wait_for(self._socket.read_message(), WITHIN_S)
            assert said is not None, "the browser is gone"
            answer = json.loads(said)
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]

    async def look_at(self, url: str, *, width: int = 1000, is_dark: bool = False) -> None:
        """Open *url* in a window of that width, in the light or in the dark."""
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=width < 500,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])
        await self.call("Page.navigate", url=url)
        await self.until(
            "document.readyState === 'complete' && location.href !== 'about:blank'"
        )

    async def until(self, expression: str) -> None:
        """Wait until *expression* is true."""
        async with asyncio.timeout(WITHIN_S):
            while not await self.evaluate(expression):  # noqa: ASYNC110  (another process)
                await asyncio.sleep(0.01)

    async def evaluate(self, expression: str) -> Any:
        """Return what *expression* is, as JSON."""
        found = await self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    async def measure(self, selector: str) -> list[Mapping[str, float]]:
        """Return the boxes of all elements that *selector* finds."""
        boxes: list[Mapping[str, float]] = await self.evaluate(
            f"[...document.querySelectorAll({json.dumps(selector)})]"
            ".map(e => e.getBoundingClientRect().toJSON())"
        )
        return boxes

    async def photograph(self, path: Path) -> None:
        """Write a picture of the whole page."""
        height = await self.evaluate("document.documentElement.scrollHeight")
        width = await self.evaluate("window.innerWidth")
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        shot = await self.call("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
        await asyncio.to_thread(path.write_bytes, base64.b64decode(shot["data"]))


@asynccontextmanager
async def open_page(folder: Path) -> AsyncIterator[Page]:
    """Start a browser whose profile is in *folder*, and open a tab."""
    assert PROGRAM is not None
    profile = folder / "profile"
    process = subprocess.Popen(  # noqa: ASYNC220  (it takes a moment, once)
        [PROGRAM, *_FLAGS, f"--user-data-dir={profile}", "about:blank"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env={**os.environ, "HOME": str(folder)},
    )
    try:
        port = await _find_port(profile / "DevToolsActivePort", process)
        url = await _find_tab(port)
        socket = await websocket_connect(url, max_message_size=64 * 2**20)
        yield Page(socket)
        socket.close()
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


async def _find_port(file: Path, process: subprocess.Popen[bytes]) -> int:
    async with asyncio.timeout(WITHIN_S):
        while True:
            assert process.poll() is None, "the browser ended at once"
            lines = await asyncio.to_thread(_read_lines, file)
            if len(lines) > 1:
                return int(lines[0])
            await asyncio.sleep(0.02)


def _read_lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []


async def _find_tab(port: int) -> str:
    from tornado.httpclient import AsyncHTTPClient

    client = AsyncHTTPClient(force_instance=True)
    async with asyncio.timeout(WITHIN_S):
        while True:
            found = await client.fetch(f"http://127.0.0.1:{port}/json/list")
            tabs = [one for one in json.loads(found.body) if one["type"] == "page"]
            if tabs:
                client.close()
                return str(tabs[0]["webSocketDebuggerUrl"])
            await asyncio.sleep(0.02)
