"""The load that instances report."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import trio

from meshtrio.discovery.endpoint import Endpoint
from meshtrio.discovery.registry import Registry
from meshtrio.messages import load
from meshtrio.rpc.protobuf_descriptors import service_from_descriptor
from meshtrio.rpc.server import Server
from meshtrio.services.load_reports import LoadReports
from meshtrio.util.concurrency import background_service
from tests.support.servers import serve_on_socket


class OneReportServicer:
    """Ends its first stream with OK after one report; the next one has none."""

    def __init__(self) -> None:
        self.service = service_from_descriptor(load.DESCRIPTOR.services_by_name["Load"], self)
        self.asked_again = trio.Event()
        self._was_asked = False

    async def Watch(self, request: Any) -> AsyncIterator[Any]:
        if self._was_asked:
            self.asked_again.set()
            await trio.sleep_forever()
        self._was_asked = True
        yield load.LoadReport(in_flight=3)


async def test_a_report_counts_until_the_next_though_its_stream_has_ended(short_dir: Path) -> None:
    registry, servicer = Registry(), OneReportServicer()
    reports = LoadReports(registry)
    async with (
        serve_on_socket(short_dir / "p", Server(servicer)),
        background_service(reports.run),
    ):
        registry.add_service("plugin.p")
        registry.register("plugin.p", Endpoint("p", f"unix:{short_dir / 'p'}", instance=0, pid=1))
        with reports.subscribe(), trio.fail_after(30):
            await servicer.asked_again.wait()
            (report,) = reports.get_all().values()
    assert report is not None
    assert report.in_flight == 3
