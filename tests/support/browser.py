"""Chromium without a window, driven by its DevTools protocol."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp

GUARD_SECONDS = 120.0
_ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--remote-debugging-port=0",
    "--remote-allow-origins=*",
)
PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser")


@dataclass
class Tab:
    """A tab: what it asked for, what went wrong in it, and what to do with it."""

    socket: aiohttp.ClientWebSocketResponse
    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    loaded: asyncio.Event = field(default_factory=asyncio.Event)
    _numbers: itertools.count[int] = field(default_factory=itertools.count)
    _answers: dict[int, asyncio.Future[Any]] = field(default_factory=dict)
    _watching: list[asyncio.Task[None]] = field(default_factory=list)

    async def listen(self) -> None:
        """Take what the browser says until it ends."""
        async for message in self.socket:
            said = json.loads(message.data)
            if "id" in said:
                self._answers.pop(said["id"]).set_result(said)
            else:
                self._note(said["method"], said["params"])

    def _note(self, method: str, params: dict[str, Any]) -> None:
        if method == "Page.loadEventFired":
            self.loaded.set()
        elif method == "Target.attachedToTarget":
            self._watching.append(asyncio.create_task(self._watch(params["sessionId"])))
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Log.entryAdded" and params["entry"]["level"] in {"error", "warning"}:
            self.errors.append(json.dumps(params["entry"]))
        elif method == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(params["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and params["type"] in {"error", "warning"}:
            self.errors.append(json.dumps(params["args"]))

    async def _watch(self, session: str) -> None:
        """Let a thread of the page, which waits for it, run, and note what it does."""
        for method in ("Network.enable", "Runtime.enable", "Runtime.runIfWaitingForDebugger"):
            await self._call(method, {}, {"sessionId": session})

    async def call(self, method: str, **params: Any) -> Any:
        """Call a method of the protocol and return its result."""
        return await self._call(method, params, {})

    async def _call(self, method: str, params: dict[str, Any], session: dict[str, str]) -> Any:
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        await self.socket.send_json({"id": number, "method": method, "params": params, **session})
        said = await asyncio.wait_for(answer, GUARD_SECONDS)
        if "error" in said:
            raise RuntimeError(f"{method}: {said['error']}")
        return said["result"]

    async def open(self, url: str, width: int = 1400, height: int = 1000) -> None:
        """Go to a page, shown as wide as said."""
        for domain in ("Page", "Network", "Runtime", "Log"):
            await self.call(f"{domain}.enable")
        await self.call(
            "Target.setAutoAttach", autoAttach=True, waitForDebuggerOnStart=True, flatten=True
        )
        await self.resize(width, height)
        self.loaded.clear()
        await self.call("Page.navigate", url=url)
        await asyncio.wait_for(self.loaded.wait(), GUARD_SECONDS)

    async def resize(self, width: int, height: int) -> None:
        """Show the page as wide as said."""
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    async def prefer(self, scheme: str) -> None:
        """Prefer a light or dark scheme of colours."""
        await self.call(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": scheme}],
        )

    async def value(self, expression: str) -> Any:
        """Return the value of an expression in JavaScript, awaited if it is a promise."""
        said = await self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in said:
            raise RuntimeError(json.dumps(said["exceptionDetails"]))
        return said["result"].get("value")

    async def until(self, expression: str) -> None:
        """Wait until an expression is true when a frame is drawn."""
        await self.value(
            "new Promise((found) => { const look = () => { let value; "
            f"try {{ value = {expression}; }} catch {{ value = null; }} "
            "if (value) found(true); else requestAnimationFrame(look); }; look(); })"
        )

    async def click(
        self, selector: str, meanwhile: Callable[[], Awaitable[object]] | None = None
    ) -> None:
        """Click with the mouse into the middle of an element.

        ``meanwhile()`` is awaited while its button is held down.
        """
        x, y = await self.value(
            f"(() => {{ const node = document.querySelector({json.dumps(selector)}); "
            "node.scrollIntoView({block: 'center'}); const box = node.getBoundingClientRect(); "
            "return [box.x + box.width / 2, box.y + box.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            await self.call(
                "Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1
            )
            if meanwhile is not None and kind == "mousePressed":
                await meanwhile()

    async def press(self, key: str, text: str = "") -> None:
        """Press a key."""
        codes = {"Enter": 13, "Escape": 27, "Tab": 9, "ArrowDown": 40}
        named = {"windowsVirtualKeyCode": codes[key], "code": key} if key in codes else {}
        for kind in ("keyDown", "keyUp"):
            await self.call(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                **named,
                **({"text": text} if text and kind == "keyDown" else {}),
            )

    async def picture(self, *, whole: bool = False) -> bytes:
        """Return what is shown, or the whole page, as PNG."""
        said = await self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        return base64.b64decode(said["data"])


@asynccontextmanager
async def tab() -> AsyncIterator[Tab]:
    """Start Chromium, and end it; yield its only tab."""
    assert PROGRAM is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        browser = await asyncio.create_subprocess_exec(
            PROGRAM,
            *_ARGUMENTS,
            f"--user-data-dir={home}",
            "about:blank",
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            port = await _port(browser)
            async with aiohttp.ClientSession() as session:
                page = await asyncio.wait_for(_page(session, port), GUARD_SECONDS)
                async with session.ws_connect(page, max_msg_size=0) as socket:
                    shown = Tab(socket)
                    listening = asyncio.create_task(shown.listen())
                    try:
                        yield shown
                    finally:
                        listening.cancel()
        finally:
            browser.terminate()
            await browser.communicate()  # its own processes have its pipe, too


async def _page(session: aiohttp.ClientSession, port: int) -> str:
    """Return the address of the only tab, which may be there a little later than the port."""
    while True:
        async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
            found = [each for each in await answer.json() if each["type"] == "page"]
        if found:
            (page,) = found
            return str(page["webSocketDebuggerUrl"])
        await asyncio.sleep(0.05)


async def _port(browser: asyncio.subprocess.Process) -> int:
    assert browser.stderr is not None
    said = []
    while line := (await asyncio.wait_for(browser.stderr.readline(), GUARD_SECONDS)).decode():
        said.append(line)
        if line.startswith("DevTools listening on ws://"):
            return int(line.rpartition(":")[2].partition("/")[0])
    raise RuntimeError(f"Chromium ended: {''.join(said)}")
