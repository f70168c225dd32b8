"""Take the pictures in docs/images from a real run: the quickstart, with some of its front measured.

    python tools/screenshots.py [FOLDER]

Needs Chromium, chromedriver (tools/install_browser.sh), and the development tools. A run that FOLDER (by default
runs/screenshots) holds already goes on where it was.
"""

from __future__ import annotations

import base64
import io
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image
from selenium import webdriver

IMAGES = Path(__file__).parent.parent / "docs" / "images"
COMMANDS = (
    ("quickstart",),
    ("pareto", "--points", "8", "--measure", "5"),
    ("report",),
)
SECTIONS = {
    "report-verdict": ("header", "section[aria-labelledby=h-budgets]"),
    "report-front": ("section[aria-labelledby=h-tradeoff]",),
    "report-contributions": ("section[aria-labelledby=h-groups]",),
    "report-timings": ("section[aria-labelledby=h-timings]",),
}
DARK = {"report-front"}
"""Taken of a dark page too."""
WIDTH, SCALE, N_COLOURS = 900, 1, 64


def run_quickstart(folder: Path) -> None:
    for verb, *options in COMMANDS:
        command = [sys.executable, "-c", "from hwsmpq.cli import main; main()", verb, *options, "-o", str(folder)]
        # A budget that is missed on this machine is a result too.
        if subprocess.run(command).returncode > 1:
            sys.exit(f"{verb} failed")


def open_browser(profile: str) -> Any:
    options = webdriver.ChromeOptions()
    for flag in ("--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.binary_location = "/usr/bin/chromium"
    return webdriver.Chrome(options=options, service=webdriver.ChromeService("/usr/bin/chromedriver"))


def take(browser: Any, selectors: tuple[str, ...]) -> Image.Image:
    """The part of the page that holds the elements, in few colours, so that it is small."""
    boxes = [browser.execute_script(
        "const r = document.querySelector(arguments[0]).getBoundingClientRect();"
        "return [r.top + scrollY, r.bottom + scrollY]", selector,
    ) for selector in selectors]
    top, bottom = min(b[0] for b in boxes), max(b[1] for b in boxes)
    clip = {"x": 0, "y": top, "width": WIDTH, "height": bottom - top, "scale": SCALE}
    taken = browser.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
    picture = Image.open(io.BytesIO(base64.b64decode(taken["data"])))
    return picture.convert("RGB").quantize(N_COLOURS, dither=Image.Dither.NONE)


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/screenshots")
    run_quickstart(folder)
    IMAGES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as profile:
        browser = open_browser(profile)
        for scheme in ("light", "dark"):
            browser.execute_cdp_cmd(
                "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
            )
            browser.execute_cdp_cmd(
                "Emulation.setDeviceMetricsOverride",
                {"width": WIDTH, "height": 900, "deviceScaleFactor": 1, "mobile": False},
            )
            browser.get((folder / "report.html").resolve().as_uri())
            for name, selectors in SECTIONS.items():
                if scheme == "light" or name in DARK:
                    suffix = "" if scheme == "light" else "-dark"
                    take(browser, selectors).save(IMAGES / f"{name}{suffix}.png", optimize=True)
        browser.quit()


if __name__ == "__main__":
    main()
