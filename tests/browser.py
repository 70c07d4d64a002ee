"""A headless Chromium that looks at a page as a reader would, spoken to through two pipes."""

import base64
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
EXECUTABLE = next(filter(None, map(shutil.which, NAMES)), None)
"""Path of the browser, None where there is none."""

LOOK = """(async () => {
  const images = [...document.images];
  await Promise.all(images.map(image => image.decode().catch(() => null)));
  const page = document.documentElement, width = page.clientWidth;
  const beyond = [...document.querySelectorAll("body *")].filter(element => {
    const box = element.getBoundingClientRect();
    return box.width && (box.right > width + 1 || box.left < -1)
      && !element.closest(".scroll, pre, svg, .choice > input");
  });
  return {
    width: window.innerWidth, scroll: page.scrollWidth, images: images.length,
    dead: images.filter(i => !i.complete || !i.naturalWidth).map(i => i.src.slice(0, 60)),
    beyond: beyond.slice(0, 5).map(e => e.outerHTML.slice(0, 120)),
    shown: [...document.querySelectorAll(".choice")].map(
      choice => [...choice.children].filter(c => c.matches(".option") && c.offsetHeight).length),
  };
})()"""


class Browser:
    """One tab."""

    def __init__(self, to: int, out: int) -> None:
        self._to, self._out, self._rest, self._count = to, out, b"", 0
        self.complaints: list[str] = []
        """What the page wrote to the console, exceptions, and requests that failed."""
        target = self._call("Target.createTarget", {"url": "about:blank"})["targetId"]
        attached = self._call("Target.attachToTarget", {"targetId": target, "flatten": True})
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **arguments: Any) -> dict[str, Any]:
        """One command to the tab (Chrome DevTools Protocol)."""
        return self._call(method, arguments, self._session)

    def open(self, path: Path, *, width: int, dark: bool = False) -> dict[str, Any]:
        """Load a file at a width; what `LOOK` finds there."""
        phone = width < 600
        size = {"width": width, "height": 844 if phone else 900}
        self.call("Emulation.setDeviceMetricsOverride", deviceScaleFactor=1, mobile=phone, **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self._loaded = False
        self.call("Page.navigate", url=path.resolve().as_uri())
        while not self._loaded:
            self._read()
        return self.run(LOOK)

    def run(self, script: str) -> Any:
        """The value of a script, or of its promise."""
        found = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def picture(self, path: Path) -> Path:
        """The whole page as a PNG."""
        found = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(found["data"]))
        return path

    def _call(
        self, method: str, arguments: dict[str, Any], session: str | None = None
    ) -> dict[str, Any]:
        self._count += 1
        number = self._count
        message = {"id": number, "method": method, "params": arguments}
        if session:
            message["sessionId"] = session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            data = os.read(self._out, 1 << 20)
            assert data, "the browser has gone"
            self._rest += data
        text, _, self._rest = self._rest.partition(b"\0")
        message = json.loads(text)
        method, content = message.get("method"), message.get("params", {})
        if method == "Page.loadEventFired":
            self._loaded = True
        elif method == "Runtime.consoleAPICalled":
            self.complaints.append(str([a.get("value") for a in content["args"]]))
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(str(content["exceptionDetails"]))
        elif method == "Log.entryAdded":
            self.complaints.append(content["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            url = content["request"]["url"]
            if not url.startswith(("data:", "file:", "about:")):
                self.complaints.append(f"asked for {url}")
        return message


@contextmanager
def browser() -> Iterator[Browser]:
    """A browser with a profile of its own, ended afterwards."""
    assert EXECUTABLE
    theirs_in, to = os.pipe()
    out, theirs_out = os.pipe()

    def as_three_and_four() -> None:
        a, b = os.dup(theirs_in), os.dup(theirs_out)  # neither may be overwritten on the way
        os.dup2(a, 3)
        os.dup2(b, 4)

    with tempfile.TemporaryDirectory() as profile:
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"]
        flags += ["--disable-dev-shm-usage", "--disable-background-networking", "--hide-scrollbars"]
        process = subprocess.Popen(
            [EXECUTABLE, *flags, "--remote-debugging-pipe", f"--user-data-dir={profile}"],
            preexec_fn=as_three_and_four,
            close_fds=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        try:
            yield Browser(to, out)
        finally:
            process.kill()
            process.wait()
            os.close(to)
            os.close(out)
