"""Logs, the live tap and events as they come: search, filters, pause, and very fast ones."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.support.browsers import Viewer, viewing
from tests.support.dashboards import Dashboard, dashboard_table, serve_dashboard
from tests.support.mesh_processes import echo_plugin_table, plugin_table

WRITER = """
import json, sys, time, traceback
from pathlib import Path

print(json.dumps({"level": "warning", "msg": "slow query", "took_ms": 412}))
print("\\x1b[31mred\\x1b[0m alert", flush=True)
try:
    raise ValueError("no such order")
except ValueError:
    traceback.print_exc()
while not Path(sys.argv[1]).exists():
    time.sleep(0.05)
for number in range(2000): # Fewer than the mesh drops.
    print("fast", number)
print("done", flush=True)
time.sleep(600)
"""
TICKER = """
import time
while True:
    print("tick", flush=True)
    time.sleep(0.2)
"""
MAX_ROWS = 300
"""More than are elements of the page at a time."""


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="mt-") as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def dashboard(folder: Path) -> Iterator[Dashboard]:
    config = [
        dashboard_table(),
        plugin_table("writer", "-c", WRITER, str(folder / "fast"), ready="started", service=False),
        plugin_table("ticker", "-c", TICKER, ready="started", service=False),
        echo_plugin_table("catalog"),
        plugin_table("payments", "shop_payments.py"),
        plugin_table("customer", "shop_customer.py"),
    ]
    with serve_dashboard(folder, "\n".join(config), min_ready=5) as dashboard:
        yield dashboard


@pytest.fixture(scope="module")
def viewer(chromium: Browser, dashboard: Dashboard) -> Iterator[Viewer]:
    with viewing(chromium, dashboard) as viewer:
        yield viewer


@pytest.fixture
def page(viewer: Viewer) -> Page:
    """The page, with another view, so that each test begins with a view of its own."""
    viewer.show("config")
    return viewer.page


def rows(page: Page) -> Locator:
    return page.locator("[data-row]")


def test_escape_sequences_are_text(viewer: Viewer, page: Page) -> None:
    viewer.show("logs", "?names=writer&search=alert")
    row = rows(page)
    expect(row).to_contain_text(r"\e[31mred\e[0m alert")


def test_a_line_of_json_has_its_fields(viewer: Viewer, page: Page) -> None:
    viewer.show("logs", "?names=writer&search=query")
    row = rows(page)
    expect(row).to_contain_text("WARNING")
    expect(row).to_contain_text("took_ms=412")


def test_a_traceback_is_folded_and_opens(viewer: Viewer, page: Page) -> None:
    viewer.show("logs", "?names=writer&search=order")
    row = rows(page)
    expect(row).to_contain_text("ValueError: no such order")
    expect(row).to_contain_text("more lines")
    expect(row).not_to_contain_text("File")
    row.locator(".row-toggle").click()
    expect(row).to_contain_text('File "<string>", line')


def test_pause_keeps_what_is_shown_and_follow_goes_on(viewer: Viewer, page: Page) -> None:
    viewer.show("logs", "?names=ticker")
    expect(rows(page).filter(has_text="tick").first).to_be_visible()
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_text("Paused")).to_be_visible()
    before = rows(page).all_inner_texts()
    expect(page.get_by_text("new line")).to_be_visible()
    assert rows(page).all_inner_texts() == before
    page.get_by_role("button", name="Follow").click()
    expect(page.get_by_text("Following")).to_be_visible()
    expect(page.get_by_text("new line")).to_be_hidden()


def test_keys_choose_and_open_a_line(viewer: Viewer, page: Page) -> None:
    viewer.show("logs", "?names=ticker")
    expect(rows(page).filter(has_text="tick").first).to_be_visible()
    page.get_by_role("region", name="Log lines").focus()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    expect(page.locator('.row-toggle[aria-expanded="true"]')).to_have_count(1)
    expect(page.get_by_text("Paused")).to_be_visible()
    page.keyboard.press("End")
    expect(page.get_by_text("Following")).to_be_visible()


def test_search_and_level_filter_lines(viewer: Viewer, page: Page) -> None:
    viewer.show("logs", "?names=writer")
    page.get_by_role("searchbox").fill('"order" -alert')
    expect(rows(page)).to_have_count(1)
    assert "search=" in page.url
    page.get_by_role("searchbox").fill("")
    expect(rows(page)).to_have_count(3)
    page.get_by_label("Level").select_option("WARNING")
    expect(rows(page)).to_have_count(1)
    expect(rows(page)).to_contain_text("slow query")


def test_names_that_the_mesh_does_not_have_are_told(viewer: Viewer, page: Page) -> None:
    viewer.show("logs", "?names=nobody")
    expect(page.get_by_role("alert")).to_contain_text("nobody")


def test_the_tap_shows_failed_calls_only(viewer: Viewer, page: Page) -> None:
    viewer.show("tap")
    expect(rows(page).filter(has_text="OK").first).to_be_visible()
    page.get_by_label("Failed only").check()
    expect(rows(page).filter(has_text="FAILED_PRECONDITION").first).to_be_visible()
    expect(rows(page).filter(has_text="OK")).to_have_count(0)


def test_the_tap_shows_slow_calls_of_a_method_only(viewer: Viewer, page: Page) -> None:
    viewer.show("tap", "?slower=100+ms&method=echo.v1.EchoService/Slow")
    expect(rows(page).filter(has_text="EchoService/Slow").first).to_be_visible()
    expect(rows(page).filter(has_text="EchoService/Echo")).to_have_count(0)


def test_charts_are_of_the_method_that_is_chosen(viewer: Viewer, page: Page) -> None:
    viewer.show("calls")
    page.get_by_role("button", name="echo.v1.EchoService/Slow").click()
    expect(page.get_by_role("button", name="Show all methods instead of")).to_be_visible()
    latency = page.get_by_role("img", name="Latency: p50 now")
    expect(latency).to_be_visible()
    page.locator("summary").nth(1).click()
    values = page.get_by_role("region", name="Latency: values")
    expect(values.get_by_role("cell").filter(has_text="ms").first).to_be_visible()


def test_events_are_filtered(viewer: Viewer, page: Page) -> None:
    viewer.show("events", "?names=writer")
    expect(rows(page).filter(has_text="writer/0").first).to_be_visible()
    expect(rows(page).filter(has_text="catalog/0")).to_have_count(0)
    page.get_by_label("Level").select_option("ERROR")
    expect(page.get_by_text("No event is found.")).to_be_visible()


def test_a_fast_log_leaves_the_page_usable(viewer: Viewer, page: Page, folder: Path) -> None:
    """This is the last test of the file: the writer does nothing more after it."""
    viewer.show("logs", "?names=writer")
    (folder / "fast").touch()
    expect(rows(page).filter(has_text="done")).to_have_count(1)
    assert rows(page).count() <= MAX_ROWS
    page.get_by_role("button", name="Show earlier lines").click()
    expect(page.get_by_text("Paused")).to_be_visible()
    page.wait_for_selector(f"[data-row]:nth-child({MAX_ROWS})", state="attached")
