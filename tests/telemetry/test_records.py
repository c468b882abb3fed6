"""Records of any program as JSON, with the ids of trace and span."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from echo.v1.echo_pb2 import EchoReply, EchoRequest

from meshtrio.supervisor.log_line import parse_line
from meshtrio.telemetry.logs.formatters import (
    JsonFormatter,
    PluginLineFormatter,
    TraceIdFilter,
    current_trace_ids,
    parse_traceparent,
)
from tests.support.connection_pairs import CallbackServicer, connect_pair

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"


class FailingRepr:
    def __repr__(self) -> str:
        raise ValueError("not now")


def record(message: object, *arguments: object, **extra: Any) -> logging.LogRecord:
    logger = logging.getLogger("some.app")
    return logger.makeRecord(
        logger.name, logging.WARNING, "f.py", 1, message, arguments, None, extra=extra
    )


def formatted(found: logging.LogRecord) -> Any:
    line = JsonFormatter().format(found)
    assert "\n" not in line
    return json.loads(line)


def test_a_record_has_its_keys_and_no_others() -> None:
    found = record("%d of %s", 2, "them")
    found.created = 1_700_000_000.0006
    assert formatted(found) == {
        "time": "2023-11-14T22:13:20.000Z",
        "level": "WARNING",
        "logger": "some.app",
        "message": "2 of them",
    }


def test_what_its_author_added_is_in_fields() -> None:
    assert formatted(record("m", order=17, who=["a"]))["fields"] == {"order": 17, "who": ["a"]}


def test_a_line_for_the_mesh_has_all_of_it_whatever_it_is_called() -> None:
    added = {"event": "ordered", "pid": 7, "plugin": "p", "fields": {"a": 1}, "level": "high"}
    line = json.loads(PluginLineFormatter(1000).format(record("m", order=17, **added)))
    own = {"level": "WARNING", "logger": "some.app", "message": "m"}
    del added["level"]
    assert line == {**own, "order": 17, **added, "level_": "high"}
    # And a mesh finds it there.
    found = parse_line(json.dumps(line), line)
    assert found.message == "m"
    assert found.fields == {"order": 17, **added, "level_": "high"}


def test_an_exception_is_one_text() -> None:
    try:
        raise RuntimeError("no\nsuch table")
    except RuntimeError:
        found = record("failed")
        found.exc_info = sys.exc_info()
    text = formatted(found)["exception"]
    assert text.startswith("Traceback (most recent call last):\n")
    assert text.endswith("RuntimeError: no\nsuch table")


@pytest.mark.parametrize(
    ("message", "arguments"),
    [("%d", ("x",)), ("%s", (FailingRepr(),)), (FailingRepr(), ()), (None, ())],
)
def test_a_record_that_is_wrong_is_told_all_the_same(message: object, arguments: Any) -> None:
    assert isinstance(formatted(record(message, *arguments))["message"], str)


@pytest.mark.parametrize(
    ("value", "ids"),
    [
        (PARENT, (TRACE, SPAN)),
        (f"01-{TRACE}-{SPAN}-03-later", (TRACE, SPAN)),
        (f"00-{TRACE}-{SPAN}-00", None),
        (f"{PARENT}-more", None),
        (PARENT.upper(), None),
        (PARENT.replace("00-", "ff-", 1), None),
        (f"00-{'0' * 32}-{SPAN}-01", None),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        (f"00-{TRACE}-{SPAN}", None),
        (PARENT.encode(), None),
        ("", None),
    ],
)
def test_a_traceparent(value: object, ids: object) -> None:
    assert parse_traceparent(value) == ids


class FakeTraceModule:
    """The parts of OpenTelemetry's `trace` that are used."""

    def __init__(self, trace_id: int, span_id: int, flags: int = 1) -> None:
        self._context = SimpleNamespace(
            trace_id=trace_id,
            span_id=span_id,
            is_valid=bool(trace_id and span_id),
            trace_flags=flags,
        )

    def get_current_span(self) -> Any:
        return SimpleNamespace(get_span_context=lambda: self._context)


async def seen_in_a_call(metadata: list[tuple[str, str]]) -> tuple[str, str]:
    """The ids while a call with this metadata is served."""
    seen = []

    async def echo(message: EchoRequest) -> EchoReply:
        seen.append(current_trace_ids())
        return EchoReply()

    async with connect_pair(CallbackServicer(Echo=echo)) as pair:
        await pair.stub.Echo(EchoRequest(), metadata=metadata)
    return seen[0]


async def test_in_a_call_they_are_those_of_its_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    assert current_trace_ids() == ("", "")
    assert await seen_in_a_call([("traceparent", PARENT)]) == (TRACE, SPAN)
    assert await seen_in_a_call([("traceparent", "nonsense")]) == ("", "")
    assert await seen_in_a_call([]) == ("", "")


async def test_opentelemetry_goes_first_where_it_has_a_span(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", FakeTraceModule(0xABC, 0xDEF))  # type: ignore[arg-type]
    ours = (f"{0xABC:032x}", f"{0xDEF:016x}")
    assert await seen_in_a_call([("traceparent", PARENT)]) == ours
    assert current_trace_ids() == ours
    for other in (FakeTraceModule(0, 0), FakeTraceModule(1, 2, flags=0), SimpleNamespace()):
        monkeypatch.setitem(sys.modules, "opentelemetry.trace", other)  # type: ignore[arg-type]
        assert await seen_in_a_call([("traceparent", PARENT)]) == (TRACE, SPAN)


async def test_the_filter_gives_a_format_of_any_kind_the_ids() -> None:
    lines: list[str] = []

    class Kept(logging.Handler):
        def emit(self, each: logging.LogRecord) -> None:
            lines.append(self.format(each))

    handler = Kept()
    handler.addFilter(TraceIdFilter())
    handler.setFormatter(logging.Formatter("%(message)s [%(trace_id)s/%(span_id)s]"))
    log = logging.getLogger("tests.filter")
    log.addHandler(handler)

    async def repeat(message: Any) -> AsyncIterator[EchoReply]:
        log.warning("inside")
        yield EchoReply()

    try:
        log.warning("outside")
        async with connect_pair(CallbackServicer(Repeat=repeat)) as pair:
            metadata = [("traceparent", PARENT)]
            async with pair.stub.Repeat(EchoRequest(), metadata=metadata) as call:
                await call.receive_message()
    finally:
        log.removeHandler(handler)
    assert lines == ["outside [/]", f"inside [{TRACE}/{SPAN}]"]
