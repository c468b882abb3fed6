"""Debian's Chromium under Playwright, and viewers of a dashboard in it.

Playwright's sync API runs an event loop of asyncio in this thread until it is left, so that no
other test of the process may run meanwhile that uses asyncio: fixtures are those of a module.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    Playwright,
    expect,
    sync_playwright,
)

from tests.support import mesh_processes
from tests.support.dashboards import Dashboard
from tests.tools import find_debian_tool

VIEWS = {
    "tree": "Tree",
    "timeline": "Timeline",
    "events": "Events",
    "logs": "Logs",
    "calls": "Calls",
    "tap": "Live tap",
    "services": "Services",
    "config": "Config",
}
"""The views of a mesh that is no node, as the address has them, and their headings."""
TIMEOUT = 30.0
"""Seconds until what is waited for has to be shown."""
expect.set_options(timeout=TIMEOUT * 1000)
PHONE = {"width": 360, "height": 740}
DESKTOP = {"width": 1280, "height": 800}

_WATCH_VIOLATIONS = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) => {
    window.violations.push(`${event.violatedDirective} of ${event.blockedURI}`);
});
"""
_EMULATE_VISIBILITY = """
window.emulatedVisibility = "visible";
for (const [name, get] of [
    ["visibilityState", () => window.emulatedVisibility],
    ["hidden", () => window.emulatedVisibility === "hidden"],
]) Object.defineProperty(document, name, { get, configurable: true });
"""
_SET_VISIBILITY = """(state) => {
    window.emulatedVisibility = state;
    document.dispatchEvent(new Event("visibilitychange", { bubbles: true }));
}"""

_FIND_WIDE = """() => [...document.querySelectorAll("body *")]
    .filter((each) => each.getBoundingClientRect().right > innerWidth + 1)
    .map((each) => `${each.tagName}.${each.className}`).slice(0, 20)"""


@contextmanager
def run_chromium() -> Iterator[Browser]:
    """Run Chromium for the block, outside of tests."""
    with sync_playwright() as playwright, launch(playwright) as browser:
        yield browser


@contextmanager
def launch(playwright: Playwright, *arguments: str) -> Iterator[Browser]:
    """Run Chromium for the block. Skips the test if it is missing, or fails it in CI."""
    executable = find_debian_tool("chromium")
    # As root it refuses to run otherwise; nothing but our own pages is loaded.
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    browser = playwright.chromium.launch(
        executable_path=executable, args=[*sandbox, "--disable-dev-shm-usage", *arguments]
    )
    try:
        yield browser
    finally:
        browser.close()


@contextmanager
def open_context(browser: Browser, **options: Any) -> Iterator[BrowserContext]:
    """Open a context, which has cookies of its own, for the block."""
    context = browser.new_context(**{"viewport": DESKTOP, **options})
    context.set_default_timeout(TIMEOUT * 1000)
    context.add_init_script(_WATCH_VIOLATIONS + _EMULATE_VISIBILITY)
    try:
        yield context
    finally:
        context.close()


# Playwright keeps attributes of its own in the object that handles its events.
@attrs.define(slots=False, eq=False)
class Viewer:
    """A page with the dashboard, and all that must not happen in it."""

    page: Page
    dashboard: Dashboard
    problems: list[str] = attrs.field(factory=list)
    """Errors of scripts, dialogs, messages of the console, and requests to others."""
    ignored: str = r"(?!)"
    """A pattern of problems that are part of the test, such as of a mesh that is restarted."""

    def __attrs_post_init__(self) -> None:
        page = self.page
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self.problems.append(f"error of a script: {error}"))
        page.on("dialog", self._on_dialog)
        page.on("request", self._on_request)

    def open(self, view: str = "tree", query: str = "") -> None:
        """Log in by the token, and show a view."""
        self.page.goto(self.dashboard.url)
        self.show(view, query)
        self.wait_until_live()

    def show(self, view: str, query: str = "") -> None:
        """Show a view as its link does, and wait until its heading is there."""
        self.page.evaluate("hash => { location.hash = hash; }", f"#/{view}{query}")
        title = VIEWS.get(view, view.title())
        self.page.get_by_role("heading", level=1, name=title, exact=True).wait_for()

    def wait_until_live(self) -> None:
        """Wait until the page has its stream of live data."""
        self.page.get_by_role("banner").get_by_text("Live", exact=True).wait_for()

    def set_visibility(self, state: str) -> None:
        """Have the page believe that its tab is "hidden" or "visible"."""
        self.page.evaluate(_SET_VISIBILITY, state)

    def first_paint(self) -> float:
        """Return when the page was first painted, in milliseconds after its address was opened."""
        found: float = self.page.evaluate(
            "performance.getEntriesByName('first-contentful-paint')[0].startTime"
        )
        return found

    def check(self) -> None:
        """Fail if something happened that must not."""
        violations = self.page.evaluate("window.violations")
        assert not violations, "violations of the Content-Security-Policy"
        found = [each for each in self.problems if not re.search(self.ignored, each)]
        assert not found, found

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.problems.append(f"{message.type} in the console: {message.text}")

    def _on_dialog(self, dialog: Any) -> None:
        self.problems.append(f"a dialog: {dialog.message}")
        dialog.dismiss()

    def _on_request(self, request: Any) -> None:
        if not request.url.startswith((f"{self.dashboard.origin}/", "data:")):
            self.problems.append(f"a request to {request.url}")


@contextmanager
def viewing(
    browser: Browser,
    dashboard: Dashboard,
    view: Sequence[str] = ("tree",),
    *,
    ignored: str = r"(?!)",
    **options: Any,
) -> Iterator[Viewer]:
    """Open the dashboard for the block, at the end of which nothing may have happened to it.

    Args:
        browser: Runs the page.
        dashboard: What is opened.
        view: The first view, and its query.
        ignored: A pattern of problems that are part of the test.
        options: Those of a context of Playwright.
    """
    with open_context(browser, **options) as context:
        viewer = Viewer(context.new_page(), dashboard, ignored=ignored)
        viewer.open(*view)
        yield viewer
        viewer.check()


def wait_until(page: Page, condition: str, argument: Any = None) -> None:
    """Wait until a function of JavaScript is true.

    Page.wait_for_function would evaluate it within the page, whose policy forbids that.
    """
    mesh_processes.wait_until(lambda: page.evaluate(condition, argument), TIMEOUT)


def assert_fits(page: Page) -> None:
    """Fail if the page is wider than the window, and so has to be scrolled sideways."""
    try:
        wait_until(page, "() => document.documentElement.scrollWidth <= innerWidth")
    except AssertionError:
        found = page.evaluate(_FIND_WIDE)
        raise AssertionError(f"wider than the window: {found}") from None


def find_browser_pids(browser: Browser) -> Sequence[int]:
    """Return the pids of the processes of the browser."""
    session = browser.new_browser_cdp_session()
    try:
        found = session.send("SystemInfo.getProcessInfo")["processInfo"]
    finally:
        session.detach()
    return [process["id"] for process in found]


def screenshot(page: Page, folder: Path, name: str) -> Path:
    """Keep a picture of the whole page."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.png"
    page.screenshot(path=path, full_page=True, animations="disabled")
    return path
