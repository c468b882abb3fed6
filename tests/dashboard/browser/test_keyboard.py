"""The dashboard by keyboard alone: navigation, the timeline, and actions with confirmation."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.support.accessibility import find_faults
from tests.support.browsers import VIEWS, Viewer, screenshot, viewing
from tests.support.dashboards import Dashboard, dashboard_table, serve_dashboard
from tests.support.mesh_processes import echo_plugin_table

MAX_STEPS = 100
"""Number of times that Tab is pressed to reach something."""


@pytest.fixture(scope="module")
def dashboard() -> Iterator[Dashboard]:
    config = dashboard_table(control=True) + echo_plugin_table(instances=2)
    with tempfile.TemporaryDirectory(prefix="mt-") as folder:
        with serve_dashboard(Path(folder), config, min_ready=2) as dashboard:
            yield dashboard


@pytest.fixture
def viewer(chromium: Browser, dashboard: Dashboard) -> Iterator[Viewer]:
    with viewing(chromium, dashboard) as viewer:
        yield viewer


def tab_to(page: Page, target: Locator) -> None:
    """Press Tab until the element has the focus, which has to be seen at each step."""
    for _ in range(MAX_STEPS):
        page.keyboard.press("Tab")
        if target.evaluate("each => each === document.activeElement"):
            assert_focus_is_visible(page)
            return
    raise AssertionError(f"{target} is not reached by Tab")


def assert_focus_is_visible(page: Page) -> None:
    style = page.evaluate(
        """() => {
            const style = getComputedStyle(document.activeElement);
            return { width: parseFloat(style.outlineWidth), style: style.outlineStyle };
        }"""
    )
    assert style["width"] >= 1, style
    assert style["style"] != "none", style


def test_every_view_is_reached_by_its_link(viewer: Viewer) -> None:
    page = viewer.page
    for view, title in VIEWS.items():
        link = page.get_by_role("navigation").get_by_role("link", name=title, exact=True)
        page.evaluate("document.activeElement.blur()")
        tab_to(page, link)
        page.keyboard.press("Enter")
        heading = page.get_by_role("heading", level=1, name=title, exact=True)
        # Screen readers read on from the heading of the view.
        expect(heading).to_be_visible()
        if view != "tree":
            expect(heading).to_be_focused()
        assert page.url.endswith(f"#/{view}")
        assert link.get_attribute("aria-current") == "page"


def test_the_first_stop_skips_the_navigation(viewer: Viewer) -> None:
    viewer.page.reload()
    viewer.wait_until_live()
    viewer.page.keyboard.press("Tab")
    skip = viewer.page.get_by_role("link", name="Skip to content")
    expect(skip).to_be_focused()
    viewer.page.keyboard.press("Enter")
    expect(viewer.page.get_by_role("heading", level=1)).to_be_focused()


def test_the_tree_is_walked_by_arrows(viewer: Viewer) -> None:
    page = viewer.page
    tab_to(page, find_row(page, "echo"))
    assert not find_faults(page)
    page.keyboard.press("ArrowRight")
    expect(find_row(page, "echo/0")).to_be_focused()
    page.keyboard.press("ArrowDown")
    expect(find_row(page, "echo/1")).to_be_focused()
    page.keyboard.press("Enter")
    details = page.get_by_role("complementary")
    expect(details.get_by_role("heading", name="echo/1")).to_be_focused()
    page.keyboard.press("Escape")
    expect(details).to_be_hidden()
    expect(find_row(page, "echo/1")).to_be_focused()
    page.keyboard.press("ArrowLeft")
    expect(find_row(page, "echo")).to_be_focused()
    page.keyboard.press("ArrowLeft")
    expect(find_row(page, "echo/0")).to_be_hidden()


def find_row(page: Page, key: str) -> Locator:
    """Return a row of the tree."""
    return page.get_by_role("treegrid").locator(f"[data-key='{key}']")


def test_the_timeline_is_walked_by_arrows(viewer: Viewer) -> None:
    page = viewer.page
    viewer.show("timeline")
    plot = page.get_by_role("application")
    tab_to(page, plot)
    page.keyboard.press("ArrowRight")
    details = page.get_by_role("complementary")
    expect(details).to_contain_text("echo/0")
    # As screen readers say it.
    expect(page.get_by_role("status").filter(has_text="echo/0")).to_have_count(1)
    page.keyboard.press("ArrowDown")
    expect(details).to_contain_text("echo/1")
    for key in ("+", "-", "Shift+ArrowLeft", "Shift+ArrowRight", "0"):
        page.keyboard.press(key)
    page.keyboard.press("Enter")
    expect(details.get_by_role("heading").first).to_be_focused()
    page.keyboard.press("Escape")
    expect(details).to_be_hidden()


def test_an_action_is_confirmed_or_cancelled_and_logged(
    viewer: Viewer, dashboard: Dashboard, screenshots: Path
) -> None:
    page, mesh = viewer.page, dashboard.mesh
    before = [row["pid"] for row in mesh.ps()]
    viewer.show("tree", "?select=echo")
    button = page.get_by_role("complementary").get_by_role("button", name="Restart", exact=True)
    tab_to(page, button)
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    expect(dialog).to_contain_text("echo")
    screenshot(page, screenshots, "dialog")
    assert not find_faults(page)
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(button).to_be_focused()
    assert [row["pid"] for row in mesh.ps()] == before
    page.keyboard.press("Enter")
    tab_to(page, dialog.get_by_role("button", name="Restart"))
    page.keyboard.press("Enter")
    expect(page.get_by_text("Restarted echo")).to_be_visible()
    expect(dialog).to_be_hidden()
    assert not {row["pid"] for row in mesh.ps()} & set(before)
    # With who has done it, before and after.
    author = r"viewer [0-9a-f]+ at 127\.0\.0\.1\S*"
    assert re.search(author + ".*: restart echo$", mesh.log, re.MULTILINE), mesh.log
    assert re.search(author + ".*: restart echo: done$", mesh.log, re.MULTILINE), mesh.log
