"""The view of the nodes, of a mesh that shares an etcd with another."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Browser, expect

from tests.support.accessibility import find_faults
from tests.support.browsers import PHONE, assert_fits, screenshot, viewing
from tests.support.dashboards import dashboard_table, serve_dashboard
from tests.support.etcd_server import run_etcd
from tests.support.mesh_processes import echo_plugin_table, serve_mesh
from tests.support.nodes import node_tables


def test_the_nodes_are_shown_as_they_come_and_go(
    chromium: Browser, short_dir: Path, screenshots: Path
) -> None:
    (short_dir / "far").mkdir()
    with run_etcd() as etcd:
        config = dashboard_table() + node_tables(etcd, "near") + echo_plugin_table()
        with serve_dashboard(short_dir, config, min_ready=1) as dashboard:
            with viewing(chromium, dashboard, ("nodes",)) as viewer:
                main = viewer.page.get_by_role("main")
                expect(main.get_by_text("near", exact=True).first).to_be_visible()
                far = node_tables(etcd, "far") + echo_plugin_table()
                with serve_mesh(short_dir / "far", far, min_ready=1):
                    expect(main.get_by_text("far", exact=True).first).to_be_visible()
                    screenshot(viewer.page, screenshots, "nodes-light")
                    for scheme in ("light", "dark"):
                        viewer.page.emulate_media(color_scheme=scheme)
                        assert not find_faults(viewer.page), scheme
                    screenshot(viewer.page, screenshots, "nodes-dark")
                    viewer.page.set_viewport_size(PHONE)
                    assert_fits(viewer.page)
                    screenshot(viewer.page, screenshots, "nodes-phone")
                expect(main.get_by_text("far", exact=True)).to_have_count(0)
