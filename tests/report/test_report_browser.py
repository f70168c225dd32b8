"""The pages in a real browser: no console messages, no requests, no sideways overflow; engines can be selected."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hwsmpq.folder import Folder
from hwsmpq.report.collect import collect
from hwsmpq.report.render import render, render_comparison
from hwsmpq.stages import ROWS
from hwsmpq.types import Budget, BudgetOutcome, Certificate, Manifest, Plan
from tests.report.factory import FILES, make_run

FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync")
HOSTILE = '<script>document.title="owned"</script><img src=x onerror="document.title=1">' + "very.long.name" * 8
CASES: dict[str, dict[str, Any]] = {
    "complete": {"n_groups": 12},
    "wide": {"n_groups": 100, "ladder": "w3a3..w8a8,fp32", "mismatches": 3, "met": False, "first_group": HOSTILE},
    "bitops": {"latency": False},
    "network alone": {"without": tuple(role for role in FILES if role != "network")},
    "large": {"n_groups": 160, "ladder": "w4a4,int8,fp32", "n_engines": 2000},
}
BACKGROUND = {"light": "rgb(245, 246, 248)", "dark": "rgb(18, 21, 26)"}
OVERFLOW = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"


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


def show(browser: Any, page: Path, width: int = 1280, scheme: str = "light") -> None:
    """Open a page as a screen of ``width`` pixels would, with empty logs."""
    browser.get("about:blank")
    browser.get_log("browser"), browser.get_log("performance")
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600},
    )
    browser.get(page.as_uri())


def assert_quiet(browser: Any, page: Path) -> None:
    assert browser.get_log("browser") == []
    assert requested_urls(browser) <= {page.as_uri(), "data:,", "about:blank"}


def assert_fits(browser: Any, width: int, scheme: str) -> None:
    assert browser.execute_script(OVERFLOW) == 0
    assert browser.execute_script("return document.body.scrollWidth") <= width
    background = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert background == BACKGROUND[scheme]


def page_data(browser: Any) -> dict[str, Any]:
    return dict(browser.execute_script("return JSON.parse(document.getElementById('data').textContent)"))


def shown_precisions(browser: Any) -> list[str]:
    """The strip, from left to right."""
    return list(browser.execute_script(
        "return [...document.querySelectorAll('#strip .group')].map(g => g.dataset.precision)"
    ))


def engine(browser: Any) -> dict[str, str]:
    """What is said about the engine that is shown."""
    rows = "[...document.querySelectorAll('#engine > div')]"
    return dict(browser.execute_script(f"return {rows}.map(d => [...d.children].map(c => c.textContent))"))


def layer_names(browser: Any) -> list[str]:
    """Of the table that has just been opened; browsers tell the page of it a little later."""
    from selenium.webdriver.support.wait import WebDriverWait

    names = "return [...document.querySelectorAll('#layer-rows th')].map(h => h.textContent)"
    return list(WebDriverWait(browser, 5).until(lambda b: b.execute_script(names)))


def decoded(data: dict[str, Any], item: dict[str, Any]) -> list[str]:
    return [data["precisions"][ord(c) - ord("0")] for c in item["levels"]]


def pointer_at(browser: Any, chart: str, index: int) -> Any:
    from selenium.webdriver import ActionChains

    mark = browser.find_element("id", f"{chart}-{index}")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center', inline: 'center'})", mark)
    return ActionChains(browser).move_to_element(mark)


@pytest.mark.parametrize(("name", "scheme"), [*((name, "light") for name in CASES), ("wide", "dark")])
def test_page_opens_cleanly(browser: Any, tmp_path: Path, name: str, scheme: str) -> None:
    page = render(make_run(tmp_path / "run", **CASES[name]))
    verdict = collect(tmp_path / "run").verdict
    for width in (390, 1280):
        show(browser, page, width, scheme)
        heading = browser.find_element("id", "verdict")
        assert heading.is_displayed() and heading.text == verdict.text
        assert browser.title == f"{verdict.badge}: run - hwsmpq report"
        assert_fits(browser, width, scheme)
        assert_quiet(browser, page)
    sizes = "return [...document.querySelectorAll('.point')].map(p => p.getBBox().width)"
    assert all(size > 0 for size in browser.execute_script(sizes))


def test_a_large_run_shows_all_its_engines_and_layers(browser: Any, tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", **CASES["large"])
    show(browser, render(folder))
    data = page_data(browser)
    assert sum(len(group["layers"]) for group in data["runs"][0]["groups"]) >= 190
    assert len(browser.find_elements("css selector", "#front .point")) == len(data["points"]) > 2000
    assert len(shown_precisions(browser)) == 160
    started = browser.execute_script("return performance.now()")
    press = "document.getElementById('front').dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowRight'}))"
    for _ in range(10):
        browser.execute_script(press)
    assert browser.execute_script("return performance.now()") - started < 10_000


def test_marks_say_their_names_beside_each_other(browser: Any, tmp_path: Path) -> None:
    show(browser, render(make_run(tmp_path / "run", ladder="w4a4,int8,fp32")))
    boxes = "return [...document.querySelectorAll('{}')].map(n => n.getBoundingClientRect())"
    names = browser.find_elements("css selector", "#front .name")
    named = ("chosen", "reference", "uniform", "compared")
    own = {point["label"] for point in page_data(browser)["points"] if point["kind"] in named}
    assert {"chosen", "fp32", "w4a4"} <= {name.text for name in names} <= own
    placed = browser.execute_script(boxes.format("#front .name"))
    for i, a in enumerate(placed):
        for b in placed[:i]:
            beside = a["right"] <= b["left"] or b["right"] <= a["left"]
            assert beside or a["bottom"] <= b["top"] or b["bottom"] <= a["top"]


def test_hovering_previews_and_a_click_selects(browser: Any, tmp_path: Path) -> None:
    page = render(make_run(tmp_path / "run", ladder="w4a4,int8,fp32"))
    show(browser, page)
    data = page_data(browser)
    chosen = next(p for p in data["points"] if p["kind"] == "chosen")
    index, other = max(enumerate(data["points"]), key=lambda pair: (pair[1]["kind"] == "reference", pair[1]["x"]))
    assert shown_precisions(browser) == decoded(data, chosen) != decoded(data, other)
    assert engine(browser)["Engine"] == "chosen"
    pointer_at(browser, "front", index).perform()
    assert shown_precisions(browser) == decoded(data, other)
    pointer_at(browser, "front", index).move_to_element(browser.find_element("id", "h-groups")).perform()
    assert shown_precisions(browser) == decoded(data, chosen)
    pointer_at(browser, "front", index).click().move_to_element(browser.find_element("id", "h-groups")).perform()
    assert shown_precisions(browser) == decoded(data, other)
    assert engine(browser)["Engine"] == other["label"]
    assert browser.find_element("id", f"front-{index}").get_attribute("aria-selected") == "true"
    back = browser.find_element("id", "back")
    assert back.is_displayed()
    back.click()
    assert shown_precisions(browser) == decoded(data, chosen) and not back.is_displayed()
    mixtures = [i for i, t in enumerate(data["timings"]) if t["kind"] == "mixture"]
    mixture = max(mixtures, key=lambda i: data["timings"][i]["x"])  # the slowest, which no other mark covers
    pointer_at(browser, "timings", mixture).click().perform()
    assert shown_precisions(browser) == decoded(data, data["timings"][mixture])
    assert_quiet(browser, page)


def test_the_strip_marks_switches_and_measured_times(browser: Any, tmp_path: Path) -> None:
    show(browser, render(make_run(tmp_path / "run", ladder="w4a4,int8,fp32")))
    data, precisions = page_data(browser), shown_precisions(browser)
    n_switches = sum(precisions[a] != precisions[b] for a, b in data["runs"][0]["edges"])
    assert n_switches > 0
    assert len(browser.find_elements("css selector", "#strip path.switch")) == n_switches
    assert engine(browser)["Precision switches"] == str(n_switches)
    groups = "return [...document.querySelectorAll('#strip .group')]"
    heights = browser.execute_script(f"{groups}.map(g => +g.querySelector('rect').getAttribute('height'))")
    costs = [g["cost"][data["precisions"].index(p)] for g, p in zip(data["runs"][0]["groups"], precisions, strict=True)]
    assert [h / heights[0] for h in heights] == pytest.approx([c / costs[0] for c in costs], rel=1e-4)
    # Without colours the lane tells the precision.
    lanes = browser.execute_script(f"{groups}.map(g => g.querySelectorAll('rect')[1].getAttribute('y'))")
    assert len(set(zip(lanes, precisions, strict=True))) == len(set(lanes)) == len(set(precisions))


def test_everything_works_from_the_keyboard(browser: Any, tmp_path: Path) -> None:
    from selenium.webdriver import ActionChains, Keys

    page = render(make_run(tmp_path / "run", ladder="w4a4,int8,fp32"))
    show(browser, page)
    data = page_data(browser)
    by_cost = sorted(data["points"], key=lambda p: (p["x"], p["y"]))
    ids: list[str] = []
    for _ in range(200):
        ActionChains(browser).send_keys(Keys.TAB).perform()
        ids.append(browser.execute_script("return document.activeElement.id || document.activeElement.tagName"))
        if ids[-1] == "front":
            break
    assert ids[-1] == "front", "the chart cannot be reached with the tabulator"
    ActionChains(browser).send_keys(Keys.HOME).perform()
    assert engine(browser)["Engine"] == by_cost[0]["label"]
    ActionChains(browser).send_keys(Keys.ARROW_RIGHT, Keys.ENTER, Keys.END).perform()
    assert engine(browser)["Engine"] == by_cost[-1]["label"]
    active = browser.execute_script("return document.activeElement.getAttribute('aria-activedescendant')")
    assert by_cost[-1]["label"] in browser.find_element("id", active).get_attribute("aria-label")
    ActionChains(browser).send_keys(Keys.TAB).perform()
    assert engine(browser)["Engine"] == by_cost[1]["label"], "what Enter selected stays"
    layers = browser.find_element("css selector", "#layers summary")
    layers.send_keys(Keys.ENTER)
    assert len(layer_names(browser)) == sum(len(g["layers"]) for g in data["runs"][0]["groups"])
    assert_quiet(browser, page)


def test_tables_are_sorted_by_a_click(browser: Any, tmp_path: Path) -> None:
    show(browser, render(make_run(tmp_path / "run", n_groups=20)))
    table = "section[aria-labelledby=h-groups]"
    heads = browser.find_elements("css selector", f"{table} thead th")
    contribution = next(head for head in heads if head.text.startswith("Contribution at"))
    column = f"return [...document.querySelectorAll('{table} tbody tr')].map(r => +r.cells[4].dataset.value)"
    before = browser.execute_script(column)
    contribution.find_element("tag name", "button").click()
    assert contribution.get_attribute("aria-sort") == "descending"
    assert browser.execute_script(column) == sorted(before, reverse=True) != before
    contribution.find_element("tag name", "button").click()
    assert browser.execute_script(column) == sorted(before)


def test_names_with_markup_stay_text(browser: Any, tmp_path: Path) -> None:
    page = render(make_run(tmp_path / "run", first_group=HOSTILE + "</script>"))
    show(browser, page)
    browser.find_element("css selector", "#layers summary").click()
    assert layer_names(browser)[0] == HOSTILE + "</script>"
    assert browser.find_elements("css selector", "img") == []
    titles = browser.execute_script("return [...document.querySelectorAll('#strip title')].map(t => t.textContent)")
    assert titles[0].startswith(HOSTILE + "</script>: ")
    assert browser.title.endswith("hwsmpq report")
    assert_quiet(browser, page)


@pytest.mark.parametrize("second", [{"ladder": "w4a4,int8,fp32", "seed": 1}, {"latency": False}])
def test_comparison(browser: Any, tmp_path: Path, second: dict[str, Any]) -> None:
    first = make_run(tmp_path / "first", ladder="w4a4,int8,fp32")
    page = render_comparison(first, make_run(tmp_path / "second", first_group=HOSTILE, **second))
    for width, scheme in ((390, "dark"), (1280, "light")):
        show(browser, page, width, scheme)
        assert browser.find_element("id", "verdict").text == "first and second"
        assert_fits(browser, width, scheme)
        assert_quiet(browser, page)
    if "latency" in second:
        assert browser.find_elements("id", "front") == []
        return
    data = page_data(browser)
    for run in (0, 1):
        index = next(i for i, p in enumerate(data["points"]) if p["run"] == run and p["kind"] == "uniform")
        pointer_at(browser, "front", index).click().perform()
        assert engine(browser)["Run"] == data["runs"][run]["name"]
        assert shown_precisions(browser) == decoded(data, data["points"][index])


def ticks(browser: Any) -> list[str]:
    script = "return [...document.querySelectorAll('#front .x-tick')].map(t => t.textContent)"
    return list(browser.execute_script(script))


@pytest.mark.parametrize("cost", ["bitops", "size_mb"])
def test_a_run_without_latency_shows_what_it_was_chosen_from(browser: Any, tmp_path: Path, cost: str) -> None:
    """The uniform networks, fp32 and the plan with the candidates; on a logarithmic axis, since costs span decades."""
    folder = make_run(tmp_path / "run", latency=False, ladder="w3a3,w4a4,int8,fp32")
    if cost == "size_mb":
        ask_for_size(folder)
    show(browser, render(folder))
    data = page_data(browser)
    kinds = {point["label"]: point["kind"] for point in data["points"]}
    assert {
        name: kinds[name] for name in ("w3a3", "w4a4", "int8", "fp32", "chosen")
    } == {"w3a3": "uniform", "w4a4": "uniform", "int8": "uniform", "fp32": "reference", "chosen": "chosen"}
    assert "candidate" in kinds.values()
    xs = sorted({point["x"] for point in data["points"]})
    shown = ticks(browser)
    assert len(shown) >= 3 and len(set(shown)) == len(shown)
    places = {p["label"]: p["x"] for p in data["points"]}
    assert engine(browser)["BitOps" if cost == "bitops" else "Weight size"]
    # Equal ratios take equal room exactly where the axis is logarithmic.
    marks = browser.execute_script(
        "return [...document.querySelectorAll('#front .point')].map(p => [p.getAttribute('aria-label'),"
        " +p.getAttribute('transform').match(/translate\\(([^ ]+)/)[1]])"
    )
    at = {label.split(":")[0]: x for label, x in marks}
    ratio = (at["fp32"] - at["int8"]) / (at["fp32"] - at["w4a4"])
    expected = math.log(places["fp32"] / places["int8"]) / math.log(places["fp32"] / places["w4a4"])
    linear = (places["fp32"] - places["int8"]) / (places["fp32"] - places["w4a4"])
    is_log = xs[-1] > 10 * xs[0]
    assert is_log or cost == "size_mb"
    assert ratio == pytest.approx(expected if is_log else linear, rel=1e-3)


def ask_for_size(folder: Path) -> None:
    """Change the budget of a run to one of size."""
    run = Folder(folder)
    plan, certificate = run.read(Plan), run.read(Certificate)
    limits = (Budget("size_mb", plan.size_mb * 1.05),)
    outcomes = (BudgetOutcome("size_mb", limits[0].limit, plan.size_mb, plan.size_mb, True),)
    for value in (replace(plan, budgets=limits), run.read(Manifest), replace(certificate, budgets=outcomes)):
        there = [kind for kind in ROWS[type(value)].upstream if run.has(kind)]
        run.write(value, {ROWS[kind].schema: run.sha256(kind) for kind in there})


def test_ticks_of_a_narrow_range_differ(browser: Any, tmp_path: Path) -> None:
    """Five times "2.01 G" says nothing."""
    show(browser, render(make_run(tmp_path / "run", latency=False)))
    script = "return labels([2.0101e9, 2.0102e9, 2.0103e9, 2.0104e9], 'BitOps')"
    assert browser.execute_script(script) == ["2.0101 G", "2.0102 G", "2.0103 G", "2.0104 G"]
    assert browser.execute_script("return labels([1, 2, 5], 'ms')") == ["1", "2", "5"]


def test_switches_of_a_deep_network_run_along_lanes(browser: Any, tmp_path: Path) -> None:
    """No line crosses the map: each follows a lane, and changes it just before its reader."""
    show(browser, render(make_run(tmp_path / "run", n_groups=100, ladder="w4a4,int8,fp32")))
    script = "return [...document.querySelectorAll('#strip path.switch')].map(p => p.getAttribute('d'))"
    paths = browser.execute_script(script)
    assert len(paths) > 20
    lanes = {path.split("H")[0].split()[1] for path in paths}
    assert len(lanes) <= 3
    assert all(re.fullmatch(r"M[\d.]+ [\d.]+H[\d.]+V[\d.]+H[\d.]+", path) for path in paths)
