"""The metrics of gRFC A66, compared with those of grpc-go and grpcio-observability."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio

from meshtrio.client.channel import connect_to
from meshtrio.grpc.header_builder import build_request_headers
from meshtrio.grpc.headers import RequestHeaders
from meshtrio.http2 import events
from meshtrio.http2.errors import ErrorCode
from meshtrio.http2.hpack import encoder
from meshtrio.rpc.server import Server
from meshtrio.rpc.server_connection import ServerConnection
from meshtrio.rpc.stream import Stream
from meshtrio.transport.listener import unix_listener
from meshtrio.transport.transport import Transport
from tests.interop.metrics.calls import make_request
from tests.interop.metrics.cases import CASES
from tests.interop.metrics.compare import (
    DEADLINE_OR_CANCELLED,
    FULL_TARGETS,
    OPTIONAL_DIFFERENCES,
    Difference,
    comparable_series,
    expected_differences,
    find_differences,
    parse_shapes,
)
from tests.interop.metrics.recordings import (
    CALL_DURATION,
    CLIENT,
    GRPC_GO,
    GRPCIO,
    MESHTRIO,
    SERVER,
    Recording,
    SeriesReader,
    are_attempts_complete,
    is_call_complete,
    record_all,
    start_peer,
)
from tests.interop.metrics.series import SeriesValue
from tests.interop.metrics_table import (
    PAGE,
    call_rows,
    difference_rows,
    instrument_rows,
    render_page,
    version_rows,
)
from tests.interop.server import TestService

SENT, RECEIVED = "sent_total_compressed_message_size", "rcvd_total_compressed_message_size"


@attrs.frozen
class Recordings:
    """By who calls and who serves."""

    ours: Recording
    go: Recording
    go_to_ours: Recording
    ours_to_go: Recording


@pytest.fixture(scope="module")
def all_four() -> Recordings:
    pairs = [(MESHTRIO, MESHTRIO), (GRPC_GO, GRPC_GO), (GRPC_GO, MESHTRIO), (MESHTRIO, GRPC_GO)]
    return Recordings(*record_all(*pairs))


@pytest.fixture(scope="module")
def grpcio() -> tuple[Recording, Recording]:
    """meshtrio's and grpcio's."""
    ours, theirs = record_all((MESHTRIO, MESHTRIO), (GRPCIO, GRPCIO))
    return ours, theirs


def assert_explained(reference: str, found: list[Difference]) -> None:
    """Each difference has its reason, and each reason its difference."""
    known = list(expected_differences(reference))
    assert [each for each in found if not any(why.matches(each) for why in known)] == []
    unneeded = [why for why in known if not any(why.matches(each) for each in found)]
    assert [why for why in unneeded if (why.reference, why.case) not in OPTIONAL_DIFFERENCES] == []


# -- what is there -----------------------------------------------------------------------------


def test_names_kinds_units_bounds_and_labels_are_those_of_grpc_go(all_four: Recordings) -> None:
    assert all_four.ours.instruments == all_four.go.instruments
    assert len(all_four.ours.instruments) == 9


def test_what_never_happened_has_no_series(all_four: Recordings) -> None:
    for recording in (all_four.ours, all_four.go):
        assert recording.before == {CLIENT: {}, SERVER: {}}


@pytest.mark.parametrize("side", [CLIENT, SERVER])
def test_the_text_for_prometheus_is_that_of_opentelemetrys_exporter(
    side: str, all_four: Recordings
) -> None:
    ours, theirs = (parse_shapes(each.prometheus[side]) for each in (all_four.ours, all_four.go))
    assert ours == theirs
    assert len(ours) == (13 if side == CLIENT else 10)


# -- what is counted ---------------------------------------------------------------------------


def test_the_same_calls_count_the_same(all_four: Recordings) -> None:
    assert_explained(GRPC_GO, find_differences(all_four.ours, all_four.go))


def test_it_does_not_matter_who_is_on_the_other_side(all_four: Recordings) -> None:
    """Each side counts what it counts with one of its own; but for gzip's sizes, see there."""
    ours, go = all_four.ours, all_four.go
    for one, other, side in (
        (ours, all_four.ours_to_go, CLIENT),
        (ours, all_four.go_to_ours, SERVER),
        (go, all_four.go_to_ours, CLIENT),
        (go, all_four.ours_to_go, SERVER),
    ):
        found = find_differences(one, other, [side])
        assert [each for each in found if each.case != "gzip"] == []


@pytest.mark.parametrize("case", [case.name for case in CASES])
def test_both_sides_of_a_call_count_the_same_bytes(case: str, all_four: Recordings) -> None:
    for recording in attrs.astuple(all_four, recurse=False):
        sides = recording.cases[case]
        if case == "unknown" or SERVER not in sides:
            continue  # grpc-go's server counts no size of the first.
        for here, there in ((SENT, RECEIVED), (RECEIVED, SENT)):
            client = total(recording, case, CLIENT, f"grpc.client.attempt.{here}")
            assert client == total(recording, case, SERVER, f"grpc.server.call.{there}")


def total(recording: Recording, case: str, side: str, metric: str) -> float:
    found = [
        v.total
        for (name, _), v in comparable_series(recording, case, side).items()
        if name == metric
    ]
    return sum(each for each in found if each is not None)


def test_sizes_are_those_of_compressed_messages(all_four: Recordings) -> None:
    for recording in attrs.astuple(all_four, recurse=False):
        for direction in (SENT, RECEIVED):
            assert 0 < total(recording, "gzip", SERVER, f"grpc.server.call.{direction}") < 100


@pytest.mark.parametrize("case", ["deadline_unary", "deadline_stream"])
def test_a_server_tells_a_deadline_or_that_its_caller_has_gone(
    case: str, all_four: Recordings
) -> None:
    for recording in attrs.astuple(all_four, recurse=False):
        found = recording.cases[case][SERVER]
        told = {status for _, labels in found for name, status in labels if name == "grpc.status"}
        assert len(told) == 1
        assert told <= set(DEADLINE_OR_CANCELLED.split(" or "))


@pytest.mark.parametrize(
    ("server", "statuses"),
    [(MESHTRIO, {"DEADLINE_EXCEEDED"}), (GRPC_GO, {*DEADLINE_OR_CANCELLED.split(" or ")})],
)
async def test_a_server_whose_caller_stays_tells_the_deadline(
    server: str, statuses: set[str], short_dir: Path
) -> None:
    """Its caller says a deadline and does not keep to it. grpc-go has two timers for it: one ends
    the handler's context with the deadline, the other one by cancelling it."""
    with start_peer(server, "serve", short_dir / "s") as peer:
        tally = SeriesReader(peer, are_attempts_complete)
        async with connect_to(f"unix:{short_dir / 's'}") as channel:
            path = b"/grpc.testing.TestService/UnaryCall"
            headers = build_request_headers(path, channel.authority.encode())
            fields = [(b"grpc-timeout", b"50m"), (b"do", b"wait")]
            connection = (await channel.picker.pick()).connection
            block = (connection.pseudo_headers + headers).data + encoder.encode(fields)
            stream = connection.open_stream(Stream, block)
            assert stream is not None
            await stream.send(make_request().SerializeToString(), end_stream=True)
            found = await trio.to_thread.run_sync(tally.wait_for_change, 1)
    told = {status for _, labels in found for name, status in labels if name == "grpc.status"}
    assert len(told) == 1
    assert told <= statuses


# -- transparent retries -----------------------------------------------------------------------


class Refusing(ServerConnection):
    """Refuses the first stream of a connection, once the whole request has come: what a client has
    sent by then is the same in each run."""

    _first = 0

    def _on_request(self, event: events.RequestReceived[RequestHeaders]) -> None:
        if self._first:
            super()._on_request(event)
        else:
            self._first = event.stream_id

    def _on_data(self, event: events.DataReceived) -> None:
        super()._on_data(event)
        if event.stream_id == self._first and event.end_stream:
            self._engine.reset_stream(event.stream_id, ErrorCode.REFUSED_STREAM)


@asynccontextmanager
async def serve_refusals(path: Path) -> AsyncIterator[None]:
    server = Server(TestService())
    with unix_listener(path) as listener:
        async with trio.open_nursery() as nursery:

            async def accept() -> None:
                accepting = trio.socket.from_stdlib_socket(listener)
                while True:
                    accepted, _ = await accepting.accept()
                    sock = socket.socket(fileno=accepted.detach())
                    nursery.start_soon(Refusing(Transport(sock), server).run)

            nursery.start_soon(accept)
            yield
            nursery.cancel_scope.cancel()


async def test_an_attempt_that_was_refused_unseen_counts_as_in_grpc_go(short_dir: Path) -> None:
    found = {}
    async with serve_refusals(short_dir / "s"):
        for client in (MESHTRIO, GRPC_GO):
            with start_peer(client, "call", short_dir / "s") as peer:
                tally = SeriesReader(peer, is_call_complete)
                assert await trio.to_thread.run_sync(peer.request, "unary") == "OK"
                found[client] = await trio.to_thread.run_sync(tally.wait_for_change, 2)
    assert found[MESHTRIO] == found[GRPC_GO]
    durations = {
        (name, dict(labels)["grpc.status"]): value
        for (name, labels), value in found[MESHTRIO].items()
        if name.endswith("duration")
    }
    assert durations == {
        ("grpc.client.attempt.duration", "UNAVAILABLE"): SeriesValue(1),
        ("grpc.client.attempt.duration", "OK"): SeriesValue(1),
        (CALL_DURATION, "OK"): SeriesValue(1),
    }


# -- grpcio-observability ----------------------------------------------------------------------


def test_grpcio_counts_the_same(grpcio: tuple[Recording, Recording]) -> None:
    assert_explained(GRPCIO, find_differences(*grpcio))


def test_names_kinds_units_and_labels_are_those_of_grpcio(
    grpcio: tuple[Recording, Recording],
) -> None:
    """Its bounds are OpenTelemetry's, since it asks for none; it does not count calls."""
    ours, theirs = (
        {name: attrs.evolve(each, bounds=()) for name, each in recording.instruments.items()}
        for recording in grpcio
    )
    del ours[CALL_DURATION]
    assert ours == theirs


def test_grpcio_tells_targets_as_they_were_given(grpcio: tuple[Recording, Recording]) -> None:
    found = {
        value
        for sides in grpcio[1].cases.values()
        for _, labels in sides[CLIENT]
        for name, value in labels
        if name == "grpc.target"
    }
    assert found == FULL_TARGETS.keys()


# -- the page ----------------------------------------------------------------------------------


def test_the_page_says_what_was_found(all_four: Recordings) -> None:
    """But for its last column, which is grpcio's."""
    ours, go = all_four.ours, all_four.go
    lines = PAGE.read_text().splitlines()
    calls = [row.removesuffix("|") for row in call_rows(ours, go)]
    assert [row for row in calls if not any(line.startswith(row) for line in lines)] == []
    assert set(lines) >= {*instrument_rows(ours), *difference_rows(), *version_rows()}


def test_the_page_says_what_was_found_of_grpcio(
    all_four: Recordings, grpcio: tuple[Recording, Recording]
) -> None:
    ours, theirs = grpcio
    assert PAGE.read_text() == render_page(ours, all_four.go, theirs)
