"""A headless Chromium, driven over its own pipe: pages are opened, read through their shadow roots, photographed."""

import base64
import fcntl
import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--remote-debugging-pipe",
)  # fmt: skip
_EXEC = "import os, sys; [os.dup2(int(end), number) for number, end in zip((3, 4), sys.argv[1:3])]; \
os.execv(sys.argv[3], sys.argv[3:])"
# The text that is shown, of the page and of every shadow root in it: TensorBoard's older tabs are built of those.
_TEXT = """
(function texts(root) {
  const found = [];
  for (const node of root.childNodes) {
    if (node.nodeType === Node.TEXT_NODE) found.push(node.textContent);
    if (node.nodeType !== Node.ELEMENT_NODE || ['STYLE', 'SCRIPT', 'DOM-MODULE', 'TEMPLATE'].includes(node.tagName))
      continue;
    if (getComputedStyle(node).display === 'none') continue;
    if (node.shadowRoot) found.push(texts(node.shadowRoot));
    if (node.value && ['INPUT', 'TEXTAREA'].includes(node.tagName)) found.push(node.value);
    found.push(texts(node));
  }
  return found.join(' ');
})(document.body)
"""


class Browser:
    """One page of Chromium. profile: a folder for its settings; it keeps nothing elsewhere."""

    def __init__(self, program: str, profile: Path, size: tuple[int, int] = (1400, 1000)) -> None:
        (theirs_in, self._write), (self._read, theirs_out) = os.pipe(), os.pipe()
        # Chromium reads commands from descriptor 3 and answers on 4; high numbers cannot be in the way of these.
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 20) for end in (theirs_in, theirs_out)]
        flags = (*_FLAGS, f"--user-data-dir={profile}", f"--window-size={size[0]},{size[1]}", "about:blank")
        self._process = subprocess.Popen(
            [sys.executable, "-ISc", _EXEC, *map(str, ends), program, *flags],
            pass_fds=ends, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env={**os.environ, "HOME": str(profile), "XDG_CONFIG_HOME": str(profile), "XDG_CACHE_HOME": str(profile)},
        )  # fmt: skip
        for end in (theirs_in, theirs_out, *ends):
            os.close(end)
        self._number, self._rest, self._session = 0, b"", ""
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": False}
        self._ask("Emulation.setDeviceMetricsOverride", **metrics)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        os.close(self._write)  # at which it ends
        os.close(self._read)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def open(self, url: str) -> None:
        # By way of an empty page: an address that differs after its # alone would not be loaded again.
        self._ask("Page.navigate", url="about:blank")
        self._ask("Page.navigate", url=url)

    def text(self) -> str:
        """What the page shows."""
        return " ".join(str(self.run(_TEXT)).split())

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression, None where it throws."""
        result = self._ask("Runtime.evaluate", expression=script, returnByValue=True)["result"]
        return result.get("value")

    def wait_for(self, *words: str, seconds: float = 60) -> str:
        """The page's text, when all the words are in it. Raises AssertionError with the text where they never are."""
        end = time.monotonic() + seconds
        while True:
            text = self.text()
            if all(word in text for word in words):
                return text
            assert time.monotonic() < end, f"{[w for w in words if w not in text]} not in the page: {text[:4000]}"
            time.sleep(0.3)

    def picture(self, path: Path) -> None:
        """Writes a PNG of the window."""
        path.write_bytes(base64.b64decode(self._ask("Page.captureScreenshot", format="png")["data"]))

    def _ask(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._read], [], [], 60)
            part = os.read(self._read, 1 << 20) if ready else b""
            assert part, "Chromium does not answer"
            self._rest += part
        first, _, self._rest = self._rest.partition(b"\0")
        return json.loads(first)
