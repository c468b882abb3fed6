"""What is in examples/monitoring, at a real Prometheus, with a mesh in which much goes wrong."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families as parsed

from meshtrio.supervisor.policy.state import InstanceState
from tests import ROOT
from tests.support.monitored_mesh import (
    ALERTS_AFTER_RESTART,
    ALLOWED_ALERTS,
    EXPECTED_ALERTS,
    MonitoringRun,
)
from tests.support.monitored_mesh import run_monitored_mesh as acted
from tests.support.prometheus_server import MONITORING
from tests.tools import find_debian_tool

DASHBOARD: dict[str, Any] = json.loads((MONITORING / "dashboard.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
VARIABLES = {each["name"]: each for each in DASHBOARD["templating"]["list"]}
QUERIES = [
    pytest.param(target["expr"], id=f"{panel['title']}-{target['refId']}")
    for panel in PANELS
    for target in panel["targets"]
]
OF_PLUGINS = {"plugin", "plugin_instance"}
ALERTS = re.findall(r"- alert: (\w+)", (MONITORING / "alerts.yml").read_text())


@pytest.fixture(scope="module")
def monitored() -> Iterator[MonitoringRun]:
    find_debian_tool("prometheus")
    with tempfile.TemporaryDirectory(prefix="mt-") as folder, acted(Path(folder)) as found:
        yield found


def promtool(*arguments: str, text: str | None = None) -> None:
    done = subprocess.run(
        [find_debian_tool("promtool"), *arguments],
        input=text,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "error" not in done.stdout + done.stderr


def test_promtool_finds_nothing_wrong_with_the_files() -> None:
    promtool("check", "config", str(MONITORING / "prometheus.yml"))
    promtool("check", "rules", str(MONITORING / "alerts.yml"))


STATE_ALERTS = ("MeshtrioPluginDown", "MeshtrioInstanceNotReady")


@pytest.mark.parametrize(
    ("state", "alerts"),
    [("ready", ()), ("idle", ()), ("stopped", ()), ("backoff", STATE_ALERTS)],
)
def test_which_states_of_an_instance_are_alerts(
    state: str, alerts: tuple[str, ...], tmp_path: Path
) -> None:
    labels = 'job="m",instance="h",plugin="p",plugin_instance="0"'
    series = [
        {
            "series": f'mesh_instance_state{{{labels},state="{each.value}"}}',
            "values": f"{int(each.value == state)}x30",
        }
        for each in InstanceState
    ]
    # None is expected, so that those that fire are reported.
    none = [{"eval_time": "20m", "alertname": name, "exp_alerts": []} for name in STATE_ALERTS]
    rules_test = {
        "rule_files": [str(MONITORING / "alerts.yml")],
        "evaluation_interval": "1m",
        "tests": [{"interval": "1m", "input_series": series, "alert_rule_test": none}],
    }
    path = tmp_path / "test.yml"
    path.write_text(json.dumps(rules_test))  # YAML includes JSON.
    command = [find_debian_tool("promtool"), "test", "rules", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    output = done.stdout + done.stderr
    assert tuple(name for name in STATE_ALERTS if f"alertname: {name}" in output) == alerts
    assert done.returncode == bool(alerts), output


def test_promtool_finds_nothing_wrong_with_the_exposition(monitored: MonitoringRun) -> None:
    promtool("check", "metrics", text=monitored.exposition)


ROW = re.compile(r"^\| `(\w+)` \| (counter|gauge|histogram) \| ([^|]*)\| .+ \|$", re.MULTILINE)


def test_the_page_on_metrics_lists_those_there_are_and_no_others(monitored: MonitoringRun) -> None:
    page = (ROOT / "docs" / "how-to" / "metrics.md").read_text()
    listed = {
        name: (kind, set(re.findall(r"`(\w+)`", labels)))
        for name, kind, labels in ROW.findall(page)
        # Only meshes that look up names, or have tasks, have these: test_dns_metrics.py in
        # tests/discovery, test_task_metrics.py in tests/telemetry.
        if not name.startswith(("mesh_dns_", "mesh_task_"))
    }
    exposed = {}
    for metric in parsed(monitored.exposition):
        labels = {label for sample in metric.samples for label in sample.labels} - {"le"}
        if metric.name.startswith("grpc_"):
            assert labels >= OF_PLUGINS
            labels -= OF_PLUGINS
        name = f"{metric.name}_total" if metric.type == "counter" else metric.name
        exposed[name] = (metric.type, labels)
    assert listed == exposed


# -- the dashboard ---------------------------------------------------------------------------


def fill_variables(text: str) -> str:
    """Return a query as Grafana sends it when nothing is selected."""
    for name, variable in VARIABLES.items():
        if variable["type"] == "query":
            text = text.replace(f"${name}", variable["allValue"])
    for name in ("$__rate_interval", "$__interval"):
        text = text.replace(name, "2m")
    assert "$" not in text
    return text


@pytest.mark.parametrize("query", QUERIES)
def test_each_query_of_the_dashboard_gives_something_to_draw(
    query: str, monitored: MonitoringRun
) -> None:
    assert monitored.prometheus.query_values(fill_variables(query), monitored.scraped_at)


def test_its_annotations_are_there(monitored: MonitoringRun) -> None:
    (deaths,) = DASHBOARD["annotations"]["list"]
    found = monitored.prometheus.query(fill_variables(deaths["expr"]), monitored.scraped_at)
    assert {"plugin": "victim", "reason": "signal"} in [row["metric"] for row in found]


def test_its_variables_have_values_to_choose(monitored: MonitoringRun) -> None:
    found = {}
    for name, variable in VARIABLES.items():
        if variable["type"] == "query":
            match = re.fullmatch(
                r"label_values\((.+), (\w+)\)", fill_variables(variable["definition"])
            )
            assert match is not None
            assert variable["query"]["query"] == variable["definition"]
            rows = monitored.prometheus.query(match[1], monitored.scraped_at)
            found[name] = {row["metric"][match[2]] for row in rows}
    assert len(found["mesh"]) == 1
    assert found["plugin"] == EXPECTED_ALERTS.keys() - {""} | {"steady", "refusing"}
    assert {f"mesh:///plugin.{name}" for name in ("steady", "victim")} < found["target"]


def test_its_panels_have_their_places_and_what_a_reader_needs() -> None:
    everything = DASHBOARD["panels"]
    assert len({panel["id"] for panel in everything}) == len(everything)
    assert len({panel["title"] for panel in everything if panel["type"] == "row"}) == 5
    for one, other in itertools.combinations(everything, 2):
        assert not overlap(one["gridPos"], other["gridPos"]), (one["title"], other["title"])
    for panel in PANELS:
        assert panel["description"], panel["title"]
        assert panel["datasource"]["uid"] == "${datasource}"
        assert all(target["legendFormat"] for target in panel["targets"])
        refs = [target["refId"] for target in panel["targets"]]
        assert len(set(refs)) == len(refs)


def overlap(one: dict[str, int], other: dict[str, int]) -> bool:
    return (
        one["x"] < other["x"] + other["w"]
        and other["x"] < one["x"] + one["w"]
        and one["y"] < other["y"] + other["h"]
        and other["y"] < one["y"] + one["h"]
    )


# -- the alerts ------------------------------------------------------------------------------


def test_a_killed_plugin_fires_the_right_alert_and_no_other(monitored: MonitoringRun) -> None:
    about_it = {alert for alert in monitored.fired_alerts if alert[1] == "victim"}
    assert monitored.alerts_after_kill == about_it == {("MeshtrioInstanceKilled", "victim")}


def test_everything_that_went_wrong_fired_its_alerts_and_nothing_fired_others(
    monitored: MonitoringRun,
) -> None:
    expected = {(name, plugin) for plugin, names in EXPECTED_ALERTS.items() for name in names}
    assert monitored.fired_alerts - ALLOWED_ALERTS == expected
    failing = monitored.prometheus.query(
        'max_over_time(ALERTS{alertname="MeshtrioClientCallsFail",alertstate="firing"}[10m])',
        monitored.scraped_at,
    )
    assert [row["metric"]["grpc_target"] for row in failing] == ["mesh:///plugin.troubled"]


@pytest.mark.parametrize("name", ALERTS)
def test_each_alert_fires_when_it_is_to(name: str, monitored: MonitoringRun) -> None:
    assert name in {fired for fired, _ in monitored.fired_alerts | monitored.alerts_after_restart}


def test_alerts_say_how_bad_it_is_and_what_to_do(monitored: MonitoringRun) -> None:
    groups = monitored.prometheus.call_api("rules")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert sorted(rule["name"] for rule in rules) == sorted(ALERTS)
    for rule in rules:
        assert rule["health"] == "ok", rule["lastError"]
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        assert rule["annotations"].keys() == {"summary", "description"}
    assert {name for name, _ in ALERTS_AFTER_RESTART} <= {
        name for name, _ in monitored.alerts_after_restart
    }
