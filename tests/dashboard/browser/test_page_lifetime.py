"""A page that sleeps, and pages whose mesh is upgraded, restarted and away."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Playwright, Request, expect

from tests.support.browsers import Viewer, find_browser_pids, launch, viewing
from tests.support.dashboards import dashboard_table, find_dashboard, serve_dashboard
from tests.support.mesh_processes import (
    MeshProcess,
    echo_plugin_table,
    plugin_table,
    serve_mesh,
    wait_until,
)
from tests.support.ports import find_free_port
from tests.support.upgrades import upgrade

ECHO = ("tree", "?select=echo/0")
"""The view with the details of the plugin `echo`."""
AWAY = r"Failed to load resource|ERR_CONNECTION_REFUSED|ERR_INCOMPLETE_CHUNKED_ENCODING"
"""What the console says of a mesh that is away."""


def find_pid(mesh: MeshProcess) -> int:
    (row,) = (row for row in mesh.ps() if row["name"] == "echo")
    pid: int = row["pid"]
    return pid


def expect_pid(viewer: Viewer, pid: int) -> None:
    """Expect the details of `echo`, which are open, to show its process."""
    expect(viewer.page.get_by_role("complementary")).to_contain_text(f"PID{pid}")


def kill_echo(mesh: MeshProcess) -> int:
    """Kill the plugin's process; returns the pid of the next one, once that is ready."""
    before = find_pid(mesh)
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: mesh.ps()[0]["state"] == "ready" and find_pid(mesh) != before)
    return find_pid(mesh)


def test_a_hidden_page_costs_nothing_and_is_up_to_date_when_it_is_shown(
    chromium: Browser, short_dir: Path
) -> None:
    config = dashboard_table() + echo_plugin_table(backoff={"initial": 0.01})
    with serve_dashboard(short_dir, config, min_ready=1) as dashboard:
        with viewing(chromium, dashboard, ECHO) as viewer:
            expect_pid(viewer, find_pid(dashboard.mesh))
            for _ in range(2):
                with viewer.page.expect_event("requestfailed", is_stream):
                    viewer.set_visibility("hidden")
                expect(viewer.page.get_by_text("Paused", exact=True)).to_be_visible()
                pid = kill_echo(dashboard.mesh)
                viewer.set_visibility("visible")
                expect_pid(viewer, pid)
                viewer.wait_until_live()


def is_stream(request: Request) -> bool:
    return urlsplit(request.url).path == "/api/stream"


CHATTER = """
import itertools, time
for number in itertools.count():
    print(number, "x" * 4000, flush=True)
    if number % 40 == 0:
        time.sleep(0.1)
"""
LINES = 4_000
"""More than the buffers of the kernel and the queue of a viewer have room for."""


@pytest.mark.long
def test_a_browser_that_is_suspended_holds_up_nothing_and_catches_up(
    playwright: Playwright, short_dir: Path
) -> None:
    config = dashboard_table() + echo_plugin_table(backoff={"initial": 0.01})
    config += plugin_table("chatter", "-c", CHATTER, ready="started")
    with serve_dashboard(short_dir, config, min_ready=2) as dashboard:
        with launch(playwright) as browser:
            mesh = dashboard.mesh
            with viewing(browser, dashboard, ("logs",)) as viewer:
                expect(viewer.page.get_by_role("main").get_by_text("xxx").first).to_be_attached()
                memory = resident(mesh)
                with suspended(browser):
                    # As a laptop that is closed: nobody reads what the mesh sends.
                    first = written(mesh)
                    wait_until(lambda: written(mesh) > first + LINES)
                    pid = kill_echo(mesh)
                    assert resident(mesh) < memory + 50 * 2**20
                last = written(mesh)
                text = viewer.page.get_by_role("main")
                wait_until(lambda: max(find_numbers(text.inner_text())) > last)
                viewer.show(*ECHO)
                expect_pid(viewer, pid)


def resident(mesh: MeshProcess) -> int:
    """Return the resident memory of the mesh, in bytes."""
    pages = int(Path(f"/proc/{mesh.process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def find_numbers(text: str) -> list[int]:
    """Return the numbers of the lines of the plugin `chatter` in a text."""
    return [-1, *map(int, re.findall(r"(\d+) xxx", text))]


def written(mesh: MeshProcess) -> int:
    """Return the number of the last line in the mesh's log."""
    with (mesh.runtime_dir.parent / "log").open("rb") as file:
        file.seek(-min(20_000, file.seek(0, os.SEEK_END)), os.SEEK_END)
        return find_numbers(file.read().decode(errors="replace"))[-1]


@contextmanager
def suspended(browser: Browser) -> Iterator[None]:
    """Stop all processes of a browser for the block."""
    pids = find_browser_pids(browser)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in reversed(pids):
            os.kill(pid, signal.SIGCONT)


def test_an_upgrade_under_an_open_page(chromium: Browser, short_dir: Path) -> None:
    config = dashboard_table(control=True) + echo_plugin_table(backoff={"initial": 0.01})
    with serve_dashboard(short_dir, config, min_ready=1) as dashboard:
        with viewing(chromium, dashboard, ECHO, ignored=AWAY) as viewer:
            pid = find_pid(dashboard.mesh)
            expect_pid(viewer, pid)
            for _ in range(2):
                upgrade(dashboard.mesh)
                expect(viewer.page.get_by_text("The mesh was upgraded")).to_be_visible()
                viewer.wait_until_live()
                expect_pid(viewer, pid)
                viewer.page.get_by_role("button", name="Dismiss").click()
            # The page goes on to show what happens.
            expect_pid(viewer, kill_echo(dashboard.mesh))


def test_a_mesh_that_goes_away_and_comes_back(chromium: Browser, short_dir: Path) -> None:
    config = dashboard_table(port=find_free_port()) + echo_plugin_table()
    with serve_dashboard(short_dir, config, min_ready=1) as dashboard:
        with viewing(chromium, dashboard, ECHO, ignored=AWAY) as viewer:
            expect_pid(viewer, find_pid(dashboard.mesh))
            dashboard.mesh.process.kill()
            expect(
                viewer.page.get_by_text("The mesh cannot be reached.", exact=True)
            ).to_be_visible()
            wait_until(lambda: not dashboard.mesh.plugin_pids())
            with serve_mesh(short_dir, config, min_ready=1) as again:
                # The same token, so that the page need not be opened again.
                assert find_dashboard(again).url == dashboard.url
                expect_pid(viewer, find_pid(again))
                expect(viewer.page.get_by_text("The mesh was restarted.")).to_be_visible()
                viewer.wait_until_live()
