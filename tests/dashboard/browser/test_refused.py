"""Pages of others, and requests without the token, get nothing and change nothing."""

from __future__ import annotations

import http.server
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Playwright

from tests.support.browsers import launch, open_context
from tests.support.dashboards import Dashboard, EventStream, dashboard_table, serve_dashboard
from tests.support.mesh_processes import echo_plugin_table

ATTACK = """
const outcome = window.outcome = {};
const url = new URL(location.hash.slice(1));
const body = JSON.stringify({ name: "echo" });

async function tryFetch(name, path, options) {
    try {
        const response = await fetch(new URL(path, url), { credentials: "include", ...options });
        outcome[name] = response.type === "opaque" ? "opaque" : await response.text();
    } catch (error) {
        outcome[name] = "refused";
    }
}

function tryEventSource() {
    return new Promise((resolve) => {
        const source = new EventSource(new URL("/api/stream?statistics=1", url), {
            withCredentials: true,
        });
        source.onmessage = source.onopen = () => { outcome.stream = "open"; resolve(); };
        source.onerror = () => { outcome.stream = "refused"; source.close(); resolve(); };
    });
}

function tryElement(name, tag, attribute, path) {
    return new Promise((resolve) => {
        const element = document.createElement(tag);
        element.onload = () => { outcome[name] = "loaded"; resolve(); };
        element.onerror = () => { outcome[name] = "refused"; resolve(); };
        element[attribute] = new URL(path, url);
        document.body.append(element);
    });
}

function tryFrame() {
    return new Promise((resolve) => {
        const frame = document.createElement("iframe");
        frame.name = "victim";
        frame.onload = () => resolve();
        frame.src = url;
        document.body.append(frame);
    });
}

function tryForm() {
    return new Promise((resolve) => {
        const frame = document.createElement("iframe");
        frame.name = "target";
        const form = document.createElement("form");
        form.method = "POST";
        form.action = new URL("/api/actions/stop", url);
        form.enctype = "text/plain";
        form.target = "target";
        const field = document.createElement("input");
        // As text/plain it is sent as {"name": "echo", "x": "="}.
        field.name = '{"name": "echo", "x": "';
        field.value = '"}';
        form.append(field);
        document.body.append(frame, form);
        frame.onload = () => resolve();
        form.submit();
    });
}

(async () => {
    const json = { "content-type": "application/json" };
    await tryFetch("read", "/api/instances", {});
    await tryFetch("read opaquely", "/api/instances", { mode: "no-cors" });
    await tryFetch("post", "/api/actions/stop", { method: "POST", body, headers: json });
    await tryFetch("post opaquely", "/api/actions/stop", { method: "POST", body, mode: "no-cors" });
    await tryEventSource();
    await tryElement("script", "script", "src", "/assets/app.js");
    await tryElement("data as a script", "script", "src", "/api/instances");
    await tryElement("image", "img", "src", "/api/instances");
    await tryFrame();
    await tryForm();
    window.done = true;
})();
"""


class _Attacker(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        is_script = self.path == "/attack.js"
        body = ATTACK if is_script else '<body><script src="/attack.js"></script>'
        self.send_response(200 if is_script or self.path == "/" else 404)
        self.send_header("content-type", "text/javascript" if is_script else "text/html")
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *arguments: object) -> None:
        """Write nothing."""


@contextmanager
def serve_attacker() -> Iterator[str]:
    """Serve a page of an attacker, on another port."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Attacker)
    thread = threading.Thread(target=partial(server.serve_forever, poll_interval=0.02))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def dashboard() -> Iterator[Dashboard]:
    config = dashboard_table(control=True) + echo_plugin_table()
    with tempfile.TemporaryDirectory(prefix="mt-") as folder:
        with serve_dashboard(Path(folder), config, min_ready=1) as dashboard:
            yield dashboard


def log_in(page: Page, dashboard: Dashboard) -> None:
    page.goto(dashboard.url)
    assert page.url.startswith(f"{dashboard.origin}/")
    assert "token" not in page.url
    page.get_by_role("navigation").wait_for()


def test_a_page_of_another_port_gets_and_does_nothing(
    chromium: Browser, dashboard: Dashboard
) -> None:
    # Cookies do not know ports: the viewer's goes with the requests of the attacker's page, which
    # is of the same site.
    with serve_attacker() as origin, open_context(chromium) as context:
        log_in(context.new_page(), dashboard)
        page = context.new_page()
        page.goto(f"{origin}/#{dashboard.origin}/")
        page.wait_for_function("window.done")
        assert page.evaluate("outcome") == {
            "read": "refused",
            # Cross-Origin-Resource-Policy, since the page could otherwise load it as something.
            "read opaquely": "refused",
            "post": "refused",
            "post opaquely": "refused",
            "stream": "refused",
            "script": "refused",
            "data as a script": "refused",
            "image": "refused",
        }
        frames = {frame.name: frame for frame in page.frames}
        assert frames["victim"].get_by_role("navigation").count() == 0
        assert frames["victim"].url.startswith("chrome-error:")
    (row,) = dashboard.mesh.ps()
    assert row["state"] == "ready"
    assert row["restarts"] == 0


def test_a_name_that_an_attacker_resolves_to_the_dashboard_is_refused(
    playwright: Playwright, dashboard: Dashboard
) -> None:
    rule = "--host-resolver-rules=MAP rebound.test 127.0.0.1"
    with launch(playwright, rule) as browser, open_context(browser) as context:
        page = context.new_page()
        url = dashboard.url.replace("127.0.0.1", "rebound.test")
        response = page.goto(url)
        assert response is not None
        assert response.status in (403, 421)
        assert not context.cookies()
        assert page.get_by_role("navigation").count() == 0


def test_a_wrong_token_and_a_viewer_without_one_are_refused(
    chromium: Browser, dashboard: Dashboard
) -> None:
    for path in ("/", "/?token=", "/?token=wrong", "/api/instances", "/assets/app.js"):
        with open_context(chromium) as context:
            response = context.new_page().goto(dashboard.origin + path)
            assert response is not None
            assert response.status == 401, path
            assert not context.cookies()
            assert "echo" not in response.text()


def test_the_cookie_is_out_of_reach_of_scripts_and_of_other_sites(
    chromium: Browser, dashboard: Dashboard
) -> None:
    with open_context(chromium) as context:
        page = context.new_page()
        log_in(page, dashboard)
        assert page.evaluate("document.cookie") == ""
        (cookie,) = context.cookies()
        assert cookie["httpOnly"]
        assert cookie["sameSite"] == "Strict"
        assert str(dashboard.port) in cookie["name"]


def test_the_api_refuses_each_request_that_is_not_the_page_s_own(dashboard: Dashboard) -> None:
    cookie = dashboard.log_in()
    host, body = f"127.0.0.1:{dashboard.port}", b'{"name": "echo"}'
    own = {"cookie": cookie, "content_type": "application/json", "origin": dashboard.origin}
    for change in (
        {"origin": "http://evil.test"},
        {"origin": "null"},
        {"origin": dashboard.origin + "0"},
        {"host": f"evil.test:{dashboard.port}"},
        {"content_type": "text/plain"},
        {"cookie": cookie[:-1]},
        {"cookie": ""},
    ):
        post = {"host": host, **own, **change}
        reply = dashboard.request("POST", "/api/actions/stop", body, **post)
        assert reply.status in (400, 401, 403, 415, 421), (change, reply)
        if "content_type" not in change:
            del post["content_type"]
            reply = dashboard.request("GET", "/api/instances", **post)
            assert reply.status in (401, 403, 421), (change, reply)
            assert b"echo" not in reply.body
    del own["origin"]
    assert dashboard.request("POST", "/api/actions/stop", body, **own).status == 403
    stream = EventStream(dashboard, "", "statistics=1")
    assert stream.status == 401
    stream.close()
    (row,) = dashboard.mesh.ps()
    assert row["state"] == "ready"
