"""JSON of messages, and requests from queries and bodies."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from meshtrio.dashboard.json_messages import message_to_plain, to_json
from meshtrio.dashboard.query import (
    make_request,
    parse_float,
    parse_number,
    parse_object,
    parse_query,
    split_names,
)
from meshtrio.dashboard.requests_check import RefusedError
from meshtrio.dashboard.stream import select_feeds
from meshtrio.dashboard.topics import make_calls
from meshtrio.messages import control


def test_fields_are_there_unless_they_have_presence() -> None:
    assert message_to_plain(control.Instance(name="a", state="ready", pid=2**31)) == {
        "name": "a",
        "instance": 0,
        "pid": 2**31,
        "state": "ready",
        "restarts": 0,
        "socket": "",
        "reason": "",
        "start": "",
        "status": "",
    }
    assert message_to_plain(control.Instance(task=control.Task()))["task"] == {
        "last_outcome": "",
        "missed": 0,
    }


def test_numbers_enums_maps_and_bytes() -> None:
    tree = control.Node(kind=control.Node.PLUGIN, nodes=[control.Node()], after=["b"])
    found = message_to_plain(tree)
    assert found["kind"] == "PLUGIN"
    assert found["nodes"][0]["kind"] == "KIND_UNSPECIFIED"
    assert found["after"] == ["b"]
    statistics = control.PluginStatistics(states={"ready": 3}, slowest_check=math.inf)
    assert message_to_plain(statistics)["states"] == {"ready": 3}
    assert message_to_plain(statistics)["slowest_check"] is None
    execution = control.Execution(number=2**64 - 1)
    assert json.loads(to_json(message_to_plain(execution)))["number"] == 2**64 - 1
    environment = control.GetEnvironmentResponse(variables=[b"A=\xff"])
    assert message_to_plain(environment) == {"variables": ["A=\ufffd"]}


@pytest.mark.parametrize("text", ["</script>", "a\nb\r\nc", "\u2028\x1b[31m\0", "\N{PILE OF POO}"])
def test_json_is_one_line(text: str) -> None:
    data = to_json({"text": text})
    assert b"\n" not in data
    assert b"\r" not in data
    assert json.loads(data) == {"text": text}


def test_nan_is_no_json() -> None:
    assert message_to_plain(control.Event(time=math.nan))["time"] is None


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ({}, control.GetHistoryRequest()),
        ({"names": "a,b"}, control.GetHistoryRequest(names=["a", "b"])),
        ({"names": "*"}, control.GetHistoryRequest()),
        ({"since": "1.5", "before": "7"}, control.GetHistoryRequest(since=1.5, before=7)),
    ],
)
def test_requests_from_queries(values: dict[str, str], found: Any) -> None:
    allowed = ("names", "since", "before")
    assert make_request(control.GetHistoryRequest.DESCRIPTOR, values, allowed) == found


@pytest.mark.parametrize(
    ("message", "values"),
    [
        ("ScaleRequest", {"other": 1}),
        ("ScaleRequest", {"name": 1}),
        ("ScaleRequest", {"name": None}),
        ("ScaleRequest", {"name": ["a"]}),
        ("ScaleRequest", {"name": "\udc00"}),
        ("ScaleRequest", {"instances": "x"}),
        ("ScaleRequest", {"instances": -1}),
        ("ScaleRequest", {"instances": 2**32}),
        ("ScaleRequest", {"instances": 1.5}),
        ("ScaleRequest", {"instances": {}}),
        ("GetHistoryRequest", {"names": 1}),
        ("GetHistoryRequest", {"since": "x"}),
        ("GetConfigRequest", {"defaults": "maybe"}),
        ("ReloadRequest", {"path": "/etc/passwd"}),
    ],
)
def test_wrong_requests(message: str, values: dict[str, Any]) -> None:
    allowed = ("name", "instances", "names", "since", "defaults")
    with pytest.raises(RefusedError) as caught:
        make_request(getattr(control, message).DESCRIPTOR, values, allowed)
    assert caught.value.status == 400


@pytest.mark.parametrize("body", [b"", b"[]", b"1", b"{", b"\xff", b"[" * 100_000, b'{"a":'])
def test_bodies_that_are_no_objects(body: bytes) -> None:
    with pytest.raises(RefusedError) as caught:
        parse_object(body)
    assert caught.value.status == 400


def test_queries() -> None:
    assert parse_query("") == {}
    assert parse_query("a=1&b=%20x&a=2") == {"a": "2", "b": " x"}
    for wrong in ("a=%ff", "&".join(f"a{number}=1" for number in range(1000))):
        with pytest.raises(RefusedError):
            parse_query(wrong)
    assert split_names("*") == split_names("") == []
    assert split_names("a,,b") == ["a", "b"]
    assert parse_number({"n": "500"}, "n", highest=100) == 100
    assert parse_number({}, "n", highest=100) == 0
    for text in ("-1", "x", "1e3", "9" * 100, "\u0661"):
        with pytest.raises(RefusedError):
            parse_number({"n": text}, "n", highest=100)
    assert parse_float({"n": "0.5"}, "n") == 0.5
    for text in ("nan", "-1", "inf", "x"):
        with pytest.raises(RefusedError):
            parse_float({"n": text}, "n")


def test_what_a_query_selects() -> None:
    values = {
        "statistics": "1",
        "events": "5",
        "history": "1",
        "logs": "a,b",
        "log_level": "warning",
        "log_last": "7",
        "tap": "*",
        "tap_failed": "1",
        "tap_method": "Echo",
        "tap_at_least": "0.5",
    }
    event, history, log, call = select_feeds(values)
    assert event.request == control.WatchEventsRequest(last=5, follow=True)
    assert history.method == "WatchHistory"
    assert log.request == control.ReadLogsRequest(names=["a", "b"], last=7, follow=True)
    levels = ("", "DEBUG", "INFO", "WARNING", "ERROR")
    wanted = [level for level in levels if log.is_wanted(control.LogLine(level=level))]
    assert wanted == ["", "WARNING", "ERROR"]
    assert call.request.calls.failed
    assert call.request.calls.at_least == 0.5
    assert select_feeds({"tap_failed": "1", "history": "0"}) == []


@pytest.mark.parametrize(
    "values",
    [
        {"x": "1"},
        {"events": "x"},
        {"logs": "*", "log_level": "loud"},
        {"tap": "", "tap_at_least": "x"},
    ],
)
def test_wrong_selections(values: dict[str, str]) -> None:
    with pytest.raises(RefusedError):
        select_feeds(values)


def test_calls_of_an_interval() -> None:
    method = control.MethodStatistics(
        plugin="echo", target="plugin.echo", service="pkg.Echo", method="Say", started=10,
        in_flight=2, ended={"OK": 5, "UNAVAILABLE": 3}, p50=0.1,
    )  # fmt: skip
    statistics = control.Statistics(time=9.0, interval=2.0, methods=[method], gateway=[method])
    found = make_calls(statistics)
    assert (found["time"], found["interval"]) == (9.0, 2.0)
    assert [row.pop("via") for row in found["rows"]] == ["plugin", "gateway"]
    assert found["rows"][0] == {
        "plugin": "echo",
        "target": "plugin.echo",
        "service": "pkg.Echo",
        "method": "Say",
        "rate": 5.0,
        "in_flight": 2,
        "count": 8,
        "errors": {"UNAVAILABLE": 3},
        "p50": 0.1,
    }
