"""Text of plugins and callers that is markup is shown as text, in every view."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from playwright.sync_api import Browser, expect

from meshtrio.contract import TARGET_METADATA_KEY
from tests.support.browsers import VIEWS, Viewer, screenshot, viewing
from tests.support.dashboards import Dashboard, dashboard_table, serve_dashboard
from tests.support.mesh_processes import MeshProcess, plugin_table, service_table, wait_until

MARKUP = (
    """<img src=x onerror="pwned=1" class=evil></script><script class=evil>pwned=2</script>"""
    """<svg class=evil onload=pwned=3>'"-->&lt;b&gt;<a class=evil href="javascript:pwned=4">"""
    """<style class=evil>*{display:none}</style>${pwned=5}{{pwned=6}}"""
)
NAME = "x-onerror-pwned-1_script_alert-1"
"""As near to markup as the name of a plugin may be."""
ESCAPES = "\x1b]8;;javascript:pwned=7\x07link\x1b[31m \u202eevil"
SHOWN = {
    "tree": ["notified <img src=x"],
    "timeline": [],
    "events": ["last <img src=x"],
    "logs": ["out <img src=x", "err <img src=x", "json <img src=x"],
    "calls": [],  # Names that no method has are counted as "other".
    "tap": ["<img src=x"],
    "services": [],
    "config": ["<img src=x"],
}
"""Where each text has to be found, as text."""


def make_config() -> str:
    env = {"MARKUP": MARKUP + ESCAPES, "METHOD": MARKUP}
    slowly = {"backoff": {"initial": 600, "maximum": 600}}
    return "\n".join(
        [
            dashboard_table(control=True),
            plugin_table(NAME, "markup_echo.py", "serve", MARKUP, env=env),
            plugin_table("dies", "markup_echo.py", "die", env=env, **slowly),
            plugin_table(
                "notifies", "markup_echo.py", "notify", env=env, ready="notify", service=False
            ),
            service_table("markup", endpoints=["unix:/tmp/<img src=x onerror=pwned=1>"]),
        ]
    )


def call(mesh: MeshProcess, method: str) -> None:
    """Call a method with hostile metadata, through the gateway."""
    with grpc.insecure_channel(f"unix:{mesh.socket}") as channel:
        metadata = [(TARGET_METADATA_KEY, f"plugin.{NAME}"), ("x-evil", MARKUP)]
        multicallable = channel.unary_unary(method)
        with pytest.raises(grpc.RpcError):
            multicallable(b"", metadata=metadata, timeout=60)


@pytest.fixture(scope="module")
def dashboard() -> Iterator[Dashboard]:
    with tempfile.TemporaryDirectory(prefix="mt-") as folder:
        with serve_dashboard(Path(folder), make_config(), min_ready=2) as dashboard:
            wait_until(lambda: f"last {MARKUP[:10]}" in dashboard.mesh.log)
            yield dashboard


@pytest.fixture(scope="module")
def viewer(chromium: Browser, dashboard: Dashboard) -> Iterator[Viewer]:
    with viewing(chromium, dashboard) as viewer:
        yield viewer


@pytest.mark.parametrize("view", VIEWS)
def test_markup_is_text_in_every_view(viewer: Viewer, view: str, screenshots: Path) -> None:
    viewer.show(view)
    main = viewer.page.get_by_role("main")

    def is_shown() -> bool:
        # Again and again, since the page may not watch calls yet.
        call(viewer.dashboard.mesh, "/echo.v1.EchoService/Echo")
        call(viewer.dashboard.mesh, "/evil.v1.Evil/" + MARKUP.replace("/", ":"))
        return all(main.get_by_text(text).count() for text in SHOWN[view])

    wait_until(is_shown)
    # Details have texts, too.
    main.get_by_role("button", expanded=False).evaluate_all(
        "buttons => buttons.slice(0, 20).forEach((button) => button.click())"
    )
    screenshot(viewer.page, screenshots, f"untrusted-{view}")
    # Wherever it is in the page.
    assert viewer.page.locator(".evil").count() == 0
    assert viewer.page.evaluate("window.pwned") is None
    assert viewer.page.locator("a[href^='javascript']").count() == 0
    viewer.check()


def test_escape_sequences_are_shown_and_not_interpreted(viewer: Viewer) -> None:
    viewer.show("logs")
    call(viewer.dashboard.mesh, "/echo.v1.EchoService/Echo")
    main = viewer.page.get_by_role("main")
    expect(main.get_by_text("out <img src=x").first).to_be_attached()
    text = main.inner_text()
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "\\u202e" in text
