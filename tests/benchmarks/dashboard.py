"""What the dashboard costs the mesh, and how soon its page is there.

    python -m tests.benchmarks.dashboard [--instances 200] [--seconds 20] [--json]

CPU time is that of the mesh's process, in percent of one core, while nobody looks and while viewers
do, each with what the page of a view asks for. The instances are echo plugins, started by fork, and
nobody calls them. First paints and the first rows of the tree are those of Debian's Chromium, and
left out without it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.benchmarks.processes import cpu_seconds
from tests.support.dashboards import Dashboard, EventStream, dashboard_table, serve_dashboard
from tests.support.mesh_processes import echo_plugin_table, serve_mesh
from tests.support.proc import read_rss

PLUGINS = 20
VIEWS = {
    "tree": "statistics=1&history=1",
    "calls": "statistics=1&calls=1",
    "everything": "statistics=1&calls=1&events=200&history=1&services=1&logs=*&tap=*",
}
"""What a page asks for, by view."""
PAINTS = 10
SETTLE = 5.0
"""Seconds after the start of the viewers that are not measured."""


def make_config(instances: int) -> str:
    each = -(-instances // PLUGINS)
    names = [f"p{number}" for number in range(-(-instances // each))]
    return "".join(echo_plugin_table(name, instances=each, start="fork") for name in names)


def measure_cpu(pid: int, seconds: float) -> float:
    """Return the CPU time of a process, in percent of a core."""
    time.sleep(SETTLE)
    before, began = cpu_seconds(pid), time.monotonic()
    time.sleep(seconds)
    return (cpu_seconds(pid) - before) / (time.monotonic() - began) * 100


@contextmanager
def watching(dashboard: Dashboard, query: str, viewers: int) -> Iterator[None]:
    """Have viewers read all that they are sent, for the block."""
    cookie = dashboard.log_in()
    streams = [EventStream(dashboard, cookie, query) for _ in range(viewers)]
    threads = [threading.Thread(target=stream.drain) for stream in streams]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for stream in streams:
            stream.interrupt()
        for thread in threads:
            thread.join()
        for stream in streams:
            stream.close()


def measure_meshes(instances: int, seconds: float) -> dict[str, float]:
    figures = {}
    config = make_config(instances)
    with tempfile.TemporaryDirectory(prefix="mt-") as folder:
        with serve_mesh(Path(folder), config, min_ready=instances) as mesh:
            figures["without a dashboard, % of a core"] = measure_cpu(mesh.process.pid, seconds)
    with tempfile.TemporaryDirectory(prefix="mt-") as folder, ExitStack() as stack:
        dashboard = stack.enter_context(
            serve_dashboard(Path(folder), dashboard_table() + config, min_ready=instances)
        )
        pid = dashboard.mesh.process.pid
        figures["no viewer, % of a core"] = measure_cpu(pid, seconds)
        for view, query in VIEWS.items():
            with watching(dashboard, query, 1):
                figures[f"one viewer of {view}, % of a core"] = measure_cpu(pid, seconds)
        with watching(dashboard, VIEWS["tree"], 50):
            figures["50 viewers of tree, % of a core"] = measure_cpu(pid, seconds)
        figures["no viewer afterwards, % of a core"] = measure_cpu(pid, seconds)
        figures["memory of the mesh afterwards, MB"] = read_rss(pid) / 1e6
        if shutil.which("chromium"):
            figures |= measure_paints(dashboard)
    return figures


def measure_paints(dashboard: Dashboard) -> dict[str, float]:
    """Measure the page in a browser that has not been there before, in milliseconds."""
    from tests.support.browsers import run_chromium, viewing

    paints, rows = [], []
    with run_chromium() as browser:
        for _ in range(PAINTS):
            with viewing(browser, dashboard) as viewer:
                viewer.page.goto(f"{dashboard.origin}/?again#/tree")
                viewer.page.get_by_role("row").nth(5).wait_for()
                paints.append(viewer.first_paint())
                rows.append(viewer.page.evaluate("performance.now()"))
    return {
        "first paint, median ms": statistics.median(paints),
        "first paint, slowest ms": max(paints),
        "first rows of the tree, median ms": statistics.median(rows),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--instances", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each measurement")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    figures = measure_meshes(options.instances, options.seconds)
    text = "\n".join(f"{case}: {value:,.1f}" for case, value in figures.items())
    print(json.dumps(figures, indent=2) if options.json else text)


if __name__ == "__main__":
    main()
