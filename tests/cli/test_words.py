"""How numbers and times are read and told. Pure tables."""

from __future__ import annotations

import click
import pytest

from meshtrio.cli import formatting
from meshtrio.cli.error_report import MeshRequestError, describe_error
from meshtrio.cli.json_output import to_plain
from meshtrio.cli.stream_commands import parse_time
from meshtrio.cli.top_screen import _parse_keys
from meshtrio.cli.top_table import Rates, SortOrder, compute_rates, make_rows, make_total_row
from meshtrio.messages import control, load

DURATIONS = {
    float("nan"): "-",
    0.04: "0.0s",
    59.94: "59.9s",
    59.96: "1m00s",
    192: "3m12s",
    3599: "59m59s",
    3600: "1h00m",
    86399: "23h59m",
    86400: "1d00h",
    95 * 3600: "3d23h",
}


@pytest.mark.parametrize("seconds", DURATIONS)
def test_durations(seconds: float) -> None:
    assert formatting.format_duration(seconds) == DURATIONS[seconds]


def test_sizes_latencies_and_rates() -> None:
    sizes = [formatting.format_size(n) for n in (512, 1000, 22_334_668, 5 * 2**40)]
    assert sizes == ["512B", "1.0K", "21.3M", "5.0T"]
    latencies = [formatting.format_latency(s) for s in (0.00035, 0.0012, 3.4)]
    assert latencies == ["350us", "1.2ms", "3.40s"]
    assert [formatting.format_rate(r) for r in (0.0, 99.94, 1234.5)] == [
        "0.0",
        "99.9",
        "1234",
    ]
    assert formatting.format_percent(0.125) == "12.5"


NOW = 1_700_000_000.0
MOMENTS = {
    "5m": NOW - 300,
    "1h30m": NOW - 5400,
    "2.5s": NOW - 2.5,
    "1d": NOW - 86400,
    "90": NOW - 90,
    "1600000000.5": 1600000000.5,
    "2023-11-14T22:13:10Z": NOW - 10,
    "2023-11-14T23:13:10+01:00": NOW - 10,
}


@pytest.mark.parametrize("text", MOMENTS)
def test_times_that_are_given(text: str) -> None:
    assert parse_time(text, NOW) == MOMENTS[text]


@pytest.mark.parametrize("text", ["", "yesterday", "5x", "5m3h", "nan"])
def test_times_that_are_none(text: str) -> None:
    with pytest.raises(click.BadParameter, match="write 5m"):
        parse_time(text, NOW)


def statistics(uptime: float, *instances: control.InstanceStatistics) -> control.Statistics:
    return control.Statistics(uptime=uptime, instances=instances)


def instance(
    number: int, *, pid: int = 1, started: int | None = None, cpu: float | None = None
) -> control.InstanceStatistics:
    told = None if started is None else load.LoadReport(started=started, failed=started // 10)
    what = control.Instance(name="p", instance=number, pid=pid, state="ready")
    return control.InstanceStatistics(instance=what, cpu=cpu, load=told, resident=10)


def test_rates_are_differences_of_one_process() -> None:
    before = statistics(
        10.0, instance(0, started=100, cpu=3.0), instance(1, started=5), instance(2)
    )
    now = statistics(
        12.0, instance(0, started=140, cpu=4.0), instance(1, started=7, pid=2), instance(2)
    )
    found = make_rows(before, now)
    assert compute_rates(before, now) == [Rates(20.0, 2.0, 0.5), Rates(), Rates()]
    assert [row["IN FLIGHT"] for row in found] == [0, 0, None]
    titles = ("CALLS/S", "FAILED/S", "CPU %")
    assert [make_total_row(now, found)[title] for title in titles] == [20.0, 2.0, 0.5]
    assert make_total_row(now, found)["MEMORY"] == 30
    assert [make_total_row(now, make_rows(None, now))[title] for title in titles] == [None] * 3


def test_rows_are_sorted_and_what_is_not_known_comes_last() -> None:
    now = statistics(1.0, *(instance(number, started=number) for number in (10, 9)), instance(1))
    found = make_rows(statistics(0.0, *(instance(number, started=0) for number in (10, 9, 1))), now)
    order = SortOrder()
    assert [row["NAME"] for row in order.sort(found)] == ["p/1", "p/9", "p/10"]
    order.move_column(3)
    assert [row["NAME"] for row in order.sort(found)] == ["p/10", "p/9", "p/1"]
    order.reverse()
    assert [row["NAME"] for row in order.sort(found)] == ["p/9", "p/10", "p/1"]


def test_keys_as_a_terminal_sends_them() -> None:
    assert _parse_keys(b"s\x1b[C\x1bOD\x1b[Axq") == [
        "next",
        "next",
        "previous",
        "reverse",
        "quit",
    ]


def test_messages_become_plain_values() -> None:
    node = control.Node(kind=control.Node.PLUGIN, name="p", after=["q"])
    node.instances.add(name="p", pid=7)
    found = to_plain(node)
    assert (found["kind"], found["after"], found["nodes"]) == ("PLUGIN", ["q"], [])
    assert (found["instances"][0]["pid"], found["instances"][0]["uptime"]) == (7, None)
    counted = control.PluginStatistics(states={"ready": 2}, counts=control.Counts(lines=2**40))
    assert to_plain(counted)["states"] == {"ready": 2}
    assert to_plain(counted)["counts"]["lines"] == 2**40
    assert to_plain(control.InstanceStatistics())["load"] is None


def test_what_nobody_foresaw_is_not_explained_away() -> None:
    with pytest.raises(ZeroDivisionError):
        describe_error(ZeroDivisionError())
    assert issubclass(MeshRequestError, Exception)
