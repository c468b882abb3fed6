"""A real Prometheus, with the configuration and the rules of examples/monitoring."""

from __future__ import annotations

import json
import math
import re
import signal
import subprocess
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests import ROOT
from tests.support.mesh_processes import wait_until
from tests.support.ports import find_free_port
from tests.support.scrapes import http_get
from tests.tools import find_debian_tool

ALERT_TIMEOUT = 40.0
"""Seconds for alerts to fire."""

MONITORING = ROOT / "examples" / "monitoring"
Alert = tuple[str, str]
"""Its name, and the plugin it is about."""


class Prometheus:
    """A server with the configuration that users get, but with shorter intervals.

    It scrapes every two seconds, evaluates every second, and takes a second for each minute of a
    `for`. At first nobody has told it of a mesh.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.url = f"http://127.0.0.1:{find_free_port()}"
        rules = (MONITORING / "alerts.yml").read_text()
        (folder / "alerts.yml").write_text(re.sub(r"\bfor: (\d+)m", r"for: \1s", rules))
        self._configure("")

    def _configure(self, target: str) -> None:
        config = (MONITORING / "prometheus.yml").read_text()
        assert '"127.0.0.1:9464"' in config
        config = config.replace("scrape_interval: 5s", "scrape_interval: 2s")
        config = config.replace("evaluation_interval: 5s", "evaluation_interval: 1s")
        config = config.replace('"127.0.0.1:9464"', f'"{target}"' if target else "")
        (self._folder / "prometheus.yml").write_text(config)

    def set_target(self, target: str) -> None:
        """Set the mesh to scrape."""
        self._configure(target)
        self._process.send_signal(signal.SIGHUP)

    @contextmanager
    def run(self) -> Iterator[None]:
        command = [
            find_debian_tool("prometheus"),
            f"--config.file={self._folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={self._folder / 'data'}",
            f"--web.listen-address={self.url.removeprefix('http://')}",
            "--log.level=warn",
        ]
        with (self._folder / "prometheus.log").open("wb") as log:
            with subprocess.Popen(command, stdout=log, stderr=log) as self._process:
                try:
                    wait_until(self._is_ready)
                    yield
                finally:
                    self._process.kill()

    def _is_ready(self) -> bool:
        assert self._process.poll() is None, (self._folder / "prometheus.log").read_text()
        try:
            http_get(f"{self.url}/-/ready")
        except OSError:
            return False
        return True

    def call_api(self, endpoint: str, **values: Any) -> Any:
        """`data` of the answer of its HTTP API."""
        query = urllib.parse.urlencode(values, doseq=True)
        return json.loads(http_get(f"{self.url}/api/v1/{endpoint}?{query}")[1])["data"]

    def query(self, expression: str, at: float | None = None) -> list[dict[str, Any]]:
        """The series that an expression gives, now or at a time."""
        when = {} if at is None else {"time": at}
        found = self.call_api("query", query=expression, **when)
        assert found["resultType"] == "vector", expression
        rows: list[dict[str, Any]] = found["result"]
        return rows

    def query_values(self, expression: str, at: float | None = None) -> list[float]:
        """Of what it gives, that which can be drawn."""
        values = [float(row["value"][1]) for row in self.query(expression, at)]
        return [value for value in values if math.isfinite(value)]

    def firing_alerts(self) -> set[Alert]:
        """Return the alerts that it would send to an Alertmanager."""
        alerts = self.call_api("alerts")["alerts"]
        return {
            (alert["labels"]["alertname"], alert["labels"].get("plugin", ""))
            for alert in alerts
            if alert["state"] == "firing"
        }

    def fired_alerts(self, at: float | None = None) -> set[Alert]:
        """All that were firing at some time until then."""
        rows = self.query('max_over_time(ALERTS{alertstate="firing"}[10m])', at)
        return {(r["metric"]["alertname"], r["metric"].get("plugin", "")) for r in rows}

    def wait_for_alerts(self, wanted: set[Alert]) -> None:
        """Wait until all of them have fired."""
        try:
            wait_until(lambda: wanted <= self.fired_alerts(), ALERT_TIMEOUT)
        except AssertionError:
            missing = sorted(wanted - self.fired_alerts())
            raise AssertionError(f"not fired within {ALERT_TIMEOUT:.0f} s: {missing}") from None

    def wait_for_scrape(self) -> float:
        """When the mesh was scraped after this was called."""
        now = time.time()
        (row,) = wait_until(lambda: self.query(f"timestamp(mesh_uptime_seconds) > {now}"))
        return float(row["value"][1])
