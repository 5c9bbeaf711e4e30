"""Takes the pictures in docs/images with headless Chromium: `python docs/screenshots.py STORE SUITE`.

STORE is one that `symbench sync SUITE` has seen. Chromium is driven by its debugging protocol, since the pages of
MLflow load for seconds.
"""

import asyncio
import base64
import io
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import aiohttp
from PIL import Image

from benchmark.suite import loading
from results.report.report import Report
from results.store.store import Store
from results.tracking import experiment, server
from results.tracking.client import default_tracking_uri

IMAGES = Path(__file__).parent / "images"
PORT, DEBUGGING = 5079, 9339
FIGURE = (
    "document.readyState === 'complete' && (document.body.replaceChildren(document.querySelector('figure svg')),"
    " document.body.style.padding = '8px')"
)
REPORT, TABLE = "document.querySelector('iframe') !== null", "document.body.innerText.includes('verdict')"
"""Scripts that are true once a page is there."""


async def pictures(pages: list[tuple[str, str, int, int, str, bool]]) -> None:
    """A picture of each (name, address, width, height, script that is true once the page is there, whether dark)."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"]
        flags += [f"--user-data-dir={profile}", f"--remote-debugging-port={DEBUGGING}", "about:blank"]
        with subprocess.Popen(["chromium", *flags], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as chromium:
            try:
                async with aiohttp.ClientSession() as session:
                    for page in pages:
                        await picture(session, *page)
            finally:
                chromium.terminate()


async def picture(
    session: aiohttp.ClientSession, name: str, address: str, width: int, height: int, script: str, dark: bool
) -> None:
    """One page in a tab of its own."""
    for _ in range(100):
        try:
            async with session.put(f"http://127.0.0.1:{DEBUGGING}/json/new") as answer:
                tab = await answer.json(content_type=None)
            break
        except aiohttp.ClientError:  # Chromium has just been started
            await asyncio.sleep(0.3)
    async with session.ws_connect(tab["webSocketDebuggerUrl"], max_msg_size=0) as socket:

        async def call(method: str, **parameters: object) -> dict[str, Any]:
            await socket.send_json({"id": 1, "method": method, "params": parameters})
            while True:
                answer = await socket.receive_json()
                if answer.get("id") == 1:
                    return answer["result"]

        await call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await call("Emulation.setEmulatedMedia", features=[scheme])
        await call("Page.bringToFront")
        await call("Page.navigate", url=address)
        for _ in range(120):
            await asyncio.sleep(1)
            if (await call("Runtime.evaluate", expression=script))["result"].get("value"):
                break
        await asyncio.sleep(5)
        shot = await call("Page.captureScreenshot")
        with Image.open(io.BytesIO(base64.b64decode(shot["data"]))) as full:
            few = full.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
            few.save(IMAGES / f"{name}.png", optimize=True)


def main(folder: str, suite_name: str) -> None:
    store, suite = Store(Path(folder)), loading.load(suite_name)
    with tempfile.TemporaryDirectory() as scratch:
        html = Path(scratch) / "report.html"
        html.write_text(Report(store, suite, *store.read(suite.cells)).html, encoding="utf-8")
        uri = default_tracking_uri(store)
        (landing, who_wins, *_) = (path for _, path in experiment.table_view_links(uri)[suite.name])
        place = server.Place(port=PORT)
        with server.serving(place, uri, experiment.artifact_folder(store), Path(scratch) / "server.log"):
            asyncio.run(
                pictures(
                    [
                        ("error", html.as_uri(), 760, 430, FIGURE, False),
                        ("report", html.as_uri(), 1280, 560, "true", False),
                        ("report-phone-dark", html.as_uri(), 390, 800, "true", True),
                        ("mlflow-report", place.link(landing), 1280, 720, REPORT, False),
                        ("mlflow-who-wins", place.link(who_wins), 1280, 640, TABLE, False),
                    ]
                )
            )


if __name__ == "__main__":
    main(*sys.argv[1:])
