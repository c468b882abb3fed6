"""Every view of a mesh in trouble: what it shows, how it looks, and who can use it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.support.accessibility import find_faults
from tests.support.browsers import (
    DESKTOP,
    PHONE,
    VIEWS,
    Viewer,
    assert_fits,
    screenshot,
    viewing,
)
from tests.support.dashboards import Dashboard
from tests.support.troubled_mesh import serve_troubled_mesh

SHOWN = {
    "tree": [
        "warehouse",  # a group
        *("catalog/0", "catalog/1", "catalog/2"),
        *("ready", "unready", "stopping", "failed", "backoff", "idle", "stopped"),
    ],
    "timeline": ["catalog/0", "mailer/0", "search/0", "stock/0"],
    "events": ["catalog", "SIGKILL", "NOT_SERVING", "mailer"],
    "logs": ["packing", "was declined"],
    "calls": ["catalog", "Repeat", "Slow", "FAILED_PRECONDITION"],
    "tap": ["EchoService/Slow", "EchoService/Repeat", "FAILED_PRECONDITION", "catalog/0"],
    "services": ["plugin.catalog", "billing", "plugin.payments"],
    "config": ["DATABASE_PASSWORD", "REGION", "smtp.shop.example"],
}
"""Texts that each view has to show, whatever it shows besides."""


@pytest.fixture(scope="module")
def shop() -> Iterator[Dashboard]:
    with tempfile.TemporaryDirectory(prefix="mt-") as folder:
        with serve_troubled_mesh(Path(folder), control=True) as dashboard:
            yield dashboard


@pytest.fixture(scope="module")
def viewer(chromium: Browser, shop: Dashboard) -> Iterator[Viewer]:
    with viewing(chromium, shop) as viewer:
        yield viewer


@pytest.fixture(autouse=True)
def _as_at_first(viewer: Viewer) -> None:
    viewer.page.set_viewport_size(DESKTOP)
    viewer.page.emulate_media(color_scheme="light")


def expect_texts(page: Page, view: str) -> None:
    main = page.get_by_role("main")
    for text in SHOWN[view]:
        expect(main.get_by_text(text).filter(visible=True).first).to_be_visible()


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_shows_the_trouble(viewer: Viewer, view: str, screenshots: Path) -> None:
    viewer.show(view)
    expect_texts(viewer.page, view)
    for scheme in ("light", "dark"):
        viewer.page.emulate_media(color_scheme=scheme)
        screenshot(viewer.page, screenshots, f"{view}-{scheme}")
    viewer.check()


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_has_no_serious_fault_of_accessibility(viewer: Viewer, view: str) -> None:
    viewer.show(view)
    expect_texts(viewer.page, view)
    for scheme in ("light", "dark"):
        viewer.page.emulate_media(color_scheme=scheme)
        assert not find_faults(viewer.page), scheme


@pytest.mark.parametrize("view", VIEWS)
def test_a_phone_shows_a_view_without_scrolling_sideways(
    viewer: Viewer, view: str, screenshots: Path
) -> None:
    viewer.page.set_viewport_size(PHONE)
    viewer.show(view)
    expect(viewer.page.get_by_role("main")).to_be_visible()
    assert_fits(viewer.page)
    screenshot(viewer.page, screenshots, f"{view}-phone")
    assert not find_faults(viewer.page)


def test_the_output_of_a_plugin_that_has_given_up_is_shown(viewer: Viewer) -> None:
    viewer.show("logs", "?names=mailer")
    main = viewer.page.get_by_role("main")
    expect(main.get_by_text("connecting to smtp.shop.example").first).to_be_visible()
    expect(main.get_by_text("packing")).to_have_count(0)


def test_errors_of_calls_through_the_gateway_are_shown(viewer: Viewer, screenshots: Path) -> None:
    viewer.show("calls")
    viewer.page.get_by_role("button", name="Through the gateway").click()
    table = viewer.page.get_by_role("region", name="Calls by method")
    for name in ("billing", "mailer"):
        row = table.get_by_role("row").filter(has_text=name)
        expect(row.filter(has_text="DEADLINE_EXCEEDED").first).to_be_visible()
    expect(table.get_by_role("row").filter(has_text="payments").first).to_be_visible()
    screenshot(viewer.page, screenshots, "calls-gateway")


def test_an_ejected_endpoint_is_shown(viewer: Viewer, screenshots: Path) -> None:
    viewer.show("services", "?name=plugin.payments")
    expect(viewer.page.get_by_role("main").get_by_text("ejected").first).to_be_visible()
    screenshot(viewer.page, screenshots, "services-ejected")


def test_how_a_process_ended_is_shown_with_its_last_lines(
    viewer: Viewer, screenshots: Path
) -> None:
    viewer.show("tree", "?select=mailer/0")
    details = viewer.page.get_by_role("complementary")
    expect(details.get_by_text("nobody listens at smtp.shop.example").first).to_be_visible()
    screenshot(viewer.page, screenshots, "tree-details")
    viewer.show("timeline", "?as=table")
    screenshot(viewer.page, screenshots, "timeline-table")
    assert not find_faults(viewer.page)


def test_secrets_of_the_config_are_masked(viewer: Viewer) -> None:
    viewer.show("config")
    expect_texts(viewer.page, "config")
    assert "hunter2" not in viewer.page.content()
