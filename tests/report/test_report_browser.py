"""The page in a real browser: no console messages, no requests, no sideways overflow."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hwsmpq.report.collect import collect
from hwsmpq.report.render import render
from tests.report.factory import FILES, make_run

FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync")
HOSTILE = '<script>document.title="owned"</script><img src=x onerror="document.title=1">' + "very.long.name" * 8
CASES: dict[str, dict[str, Any]] = {
    "complete": {"n_groups": 12},
    "wide": {"n_groups": 100, "ladder": "w3a3..w8a8,fp32", "mismatches": 3, "met": False, "first_group": HOSTILE},
    "bitops": {"latency": False},
    "network alone": {"without": tuple(role for role in FILES if role != "network")},
}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not binary or not driver:
        pytest.skip("chromium and chromedriver are not installed (Debian: chromium chromium-driver)")
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield chrome
    chrome.quit()


def requested_urls(browser: Any) -> set[str]:
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return {e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"}


def test_the_log_sees_errors_and_requests(browser: Any, tmp_path: Path) -> None:
    """Guards the other tests: with a silent log they could not fail."""
    (tmp_path / "bad.html").write_text("<script>console.error('seen')</script><img src='missing.png'>")
    browser.get((tmp_path / "bad.html").as_uri())
    assert any("seen" in entry["message"] for entry in browser.get_log("browser"))
    assert (tmp_path / "missing.png").as_uri() in requested_urls(browser)


@pytest.mark.parametrize(("name", "scheme"), [*((name, "light") for name in CASES), ("wide", "dark")])
def test_page_opens_cleanly(browser: Any, tmp_path: Path, name: str, scheme: str) -> None:
    folder = make_run(tmp_path / "run", **CASES[name])
    page = render(folder).as_uri()
    verdict = collect(folder).verdict
    browser.get("about:blank")
    browser.get_log("browser"), browser.get_log("performance")
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    for width in (390, 1280):
        browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600},
        )
        browser.get(page)
        heading = browser.find_element("id", "verdict")
        assert heading.is_displayed() and heading.text == verdict.text
        assert browser.title == f"{verdict.badge}: run - hwsmpq report"
        overflow = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert browser.execute_script(overflow) == 0
        assert browser.execute_script("return document.body.scrollWidth") <= width
        sizes = "return [...document.querySelectorAll('svg use')].map(u => u.getBBox().width + u.getBBox().height)"
        assert all(size > 0 for size in browser.execute_script(sizes)), "a marker points at an id that is not there"
        background = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert background == {"light": "rgb(245, 246, 248)", "dark": "rgb(18, 21, 26)"}[scheme]
    assert browser.get_log("browser") == []
    assert requested_urls(browser) <= {page, "data:,", "about:blank"}
