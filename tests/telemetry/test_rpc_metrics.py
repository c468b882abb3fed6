"""What is counted of calls: each kind, each way to end, on both sides."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any

import purerpc
import pytest
import trio
import trio.testing
from echo.v1.echo_grpc import EchoServiceStub
from echo.v1.echo_pb2 import EchoReply, EchoRequest, RepeatRequest

from meshtrio.client.channel import Channel, connect_to, open_channel
from meshtrio.client.interceptors import ClientCall
from meshtrio.grpc.service_config import parse_service_config
from meshtrio.http2.errors import ErrorCode
from meshtrio.rpc.method import Method
from meshtrio.rpc.server import Server
from meshtrio.telemetry.metric_families import Distribution, MetricFamily
from meshtrio.telemetry.metrics import Metrics
from meshtrio.telemetry.metrics.call_metrics import ClientMetrics
from tests.support.connection_pairs import CallbackServicer, echo_reply, echo_request, echo_requests
from tests.support.failing_servicers import OUTLIER_DETECTION_CONFIG, make_servicer_failing_with
from tests.support.handlers import ECHO_SERVICER, CancellationRecorder
from tests.support.servers import FakeResolver, serve_on_socket, unix_endpoint

ECHO, REPEAT, CHAT = (f"echo.v1.EchoService/{name}" for name in ("Echo", "Repeat", "Chat"))
SENT, RECEIVED = "sent_total_compressed_message_size", "rcvd_total_compressed_message_size"


class CollectedMetrics:
    """Collected metrics by name and labels."""

    def __init__(self, families: list[MetricFamily]) -> None:
        self.by_name = {family.name: family for family in families}

    def value(self, name: str, **labels: str) -> Any:
        """The one series that has these labels, dots for underscores; None where there is none."""
        wanted = {(key.replace("_", "."), value) for key, value in labels.items()}
        found = [p.value for p in self.by_name[name].points if wanted <= set(p.labels)]
        assert len(found) < 2
        return found[0] if found else None

    def count(self, name: str, **labels: str) -> int:
        value = self.value(name, **labels)
        return sum(value.counts) if isinstance(value, Distribution) else int(value or 0)

    def statuses(self, name: str) -> dict[str, int]:
        return {
            dict(point.labels)["grpc.status"]: sum(point.value.counts)  # type: ignore[union-attr]
            for point in self.by_name[name].points
        }


@asynccontextmanager
async def measured(
    folder: Path,
    servicer: Any = ECHO_SERVICER,
    config: dict[str, Any] | None = None,
    **options: Any,
) -> AsyncIterator[tuple[Metrics, Channel]]:
    metrics = Metrics(experimental=True)
    with metrics.install():
        async with serve_on_socket(folder / "a", Server(servicer)):
            parsed = None if config is None else parse_service_config(config)
            async with connect_to(
                f"unix:{folder / 'a'}", service_config=parsed, **options
            ) as channel:
                yield metrics, channel


def stub(channel: Channel) -> Any:
    return channel.stub(EchoServiceStub)


async def test_a_call_is_counted_on_both_sides(short_dir: Path) -> None:
    async with measured(short_dir) as (metrics, channel):
        for text in ("", "x" * 2000):
            await stub(channel).Echo(echo_request(text))
        found = CollectedMetrics(metrics.collect())
    target = f"unix://{short_dir / 'a'}"
    size = echo_request("x" * 2000).ByteSize()
    for about in ("grpc.client.attempt", "grpc.server.call"):
        assert found.value(f"{about}.started", grpc_method=ECHO) == 2
        assert found.count(f"{about}.duration", grpc_method=ECHO, grpc_status="OK") == 2
        for direction in (SENT, RECEIVED):
            sizes = found.value(f"{about}.{direction}", grpc_method=ECHO, grpc_status="OK")
            assert sizes.sum == size
            assert sizes.counts[:3] == (1, 0, 1)
    assert found.count("grpc.client.call.duration", grpc_target=target, grpc_status="OK") == 2
    assert found.by_name["grpc.client.attempt.started"].unit == "{attempt}"
    assert found.by_name["grpc.server.call.duration"].unit == "s"


async def test_streams_count_all_their_messages(short_dir: Path) -> None:
    async with measured(short_dir) as (metrics, channel):
        replies = [each async for each in stub(channel).Repeat(RepeatRequest(message="r", count=5))]
        async for _ in stub(channel).Chat(echo_requests("a", "bb")):
            pass
        found = CollectedMetrics(metrics.collect())
    total = sum(each.ByteSize() for each in replies)
    assert found.value(f"grpc.server.call.{SENT}", grpc_method=REPEAT).sum == total
    assert found.value(f"grpc.client.attempt.{RECEIVED}", grpc_method=REPEAT).sum == total
    both = echo_request("a").ByteSize() + echo_request("bb").ByteSize()
    for direction in (SENT, RECEIVED):
        assert found.value(f"grpc.client.attempt.{direction}", grpc_method=CHAT).sum == both
    assert found.count("grpc.client.call.duration", grpc_method=CHAT, grpc_status="OK") == 1


async def test_sizes_are_those_after_compression(short_dir: Path) -> None:
    async def gzipped(message: EchoRequest, request: Any) -> EchoReply:
        request.compression = "gzip"
        return echo_reply(message.message)

    async with measured(short_dir, CallbackServicer(Echo=gzipped)) as (metrics, channel):
        await stub(channel).Echo(echo_request("x" * 50_000), compression="gzip")
        found = CollectedMetrics(metrics.collect())
    for about in ("grpc.client.attempt", "grpc.server.call"):
        for direction in (SENT, RECEIVED):
            assert 0 < found.value(f"{about}.{direction}", grpc_method=ECHO).sum < 1000


async def test_statuses_are_told_by_name(short_dir: Path) -> None:
    async def fails(message: EchoRequest) -> EchoReply:
        raise purerpc.NotFoundError("no")

    async def breaks(message: RepeatRequest) -> AsyncIterator[EchoReply]:
        yield echo_reply("one")
        raise RuntimeError("a bug")

    async with measured(short_dir, CallbackServicer(Echo=fails, Repeat=breaks)) as (
        metrics,
        channel,
    ):
        with pytest.raises(purerpc.NotFoundError):
            await stub(channel).Echo(echo_request("?"))
        with pytest.raises(purerpc.UnknownError):
            async for _ in stub(channel).Repeat(RepeatRequest(count=1)):
                pass
        found = CollectedMetrics(metrics.collect())
    for name in ("client.attempt", "client.call", "server.call"):
        assert found.count(f"grpc.{name}.duration", grpc_method=ECHO, grpc_status="NOT_FOUND") == 1
        assert found.count(f"grpc.{name}.duration", grpc_method=REPEAT, grpc_status="UNKNOWN") == 1


ONE = RepeatRequest(message="hi", count=1)


async def all_of(replies: AsyncIterator[EchoReply]) -> None:
    async for _ in replies:
        pass


@pytest.mark.parametrize("method", [ECHO, REPEAT])
@pytest.mark.parametrize("fails", [False, True])
async def test_the_status_is_the_one_that_went_out(
    method: str, fails: bool, short_dir: Path
) -> None:
    """Not the one that the handler came to, where its metadata cannot be sent."""

    def spoil(call: Any) -> None:
        call.trailing_metadata = [("not a key", "x")]
        if fails:
            raise purerpc.NotFoundError("nothing")

    async def echo(message: EchoRequest, request: Any) -> EchoReply:
        spoil(request)
        return echo_reply("ok")

    async def repeat(message: RepeatRequest, request: Any) -> AsyncIterator[EchoReply]:
        yield echo_reply("ok")
        spoil(request)

    async with measured(short_dir, CallbackServicer(Echo=echo, Repeat=repeat)) as (
        metrics,
        channel,
    ):
        calls = stub(channel)
        with pytest.raises(purerpc.UnknownError, match="metadata cannot be sent"):
            await (calls.Echo(echo_request("hi")) if method == ECHO else all_of(calls.Repeat(ONE)))
        found = CollectedMetrics(metrics.collect())
    assert found.statuses("grpc.server.call.duration") == {"UNKNOWN": 1}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(("seconds", "status"), [(0.2, "DEADLINE_EXCEEDED"), (30, "CANCELLED")])
async def test_what_the_caller_ends_is_told_apart(
    streaming: bool, seconds: float, status: str, short_dir: Path
) -> None:
    until = CancellationRecorder()
    servicer = CallbackServicer(Echo=until, Repeat=until.streaming)
    async with measured(short_dir, servicer) as (metrics, channel):
        with trio.move_on_after(seconds):
            async with trio.open_nursery() as nursery:

                async def cancel() -> None:
                    await until.started.wait()
                    if status == "CANCELLED":
                        nursery.cancel_scope.cancel()

                nursery.start_soon(cancel)
                if streaming:
                    async for _ in stub(channel).Repeat(RepeatRequest(count=1)):
                        pass
                else:
                    await stub(channel).Echo(echo_request("?"))
        await until.cancelled.wait()
        await trio.testing.wait_all_tasks_blocked()
        found = CollectedMetrics(metrics.collect())
    method = REPEAT if streaming else ECHO
    for name in ("client.attempt", "client.call"):
        assert found.count(f"grpc.{name}.duration", grpc_method=method, grpc_status=status) == 1
    # The server is told both, of the deadline and that its caller has gone, at the same time.
    assert set(found.statuses("grpc.server.call.duration")) <= {status, "CANCELLED"}


async def test_a_server_that_keeps_to_the_deadline_as_well_is_not_told_apart(
    short_dir: Path,
) -> None:
    """grpc-go's resets a stream when its deadline passes, maybe before the caller has done so."""
    has_reset = trio.Event()

    async def resets(
        messages: AsyncIterator[EchoRequest], request: Any
    ) -> AsyncIterator[EchoReply]:
        yield echo_reply("one")
        request._stream.reset(ErrorCode.CANCEL)
        has_reset.set()

    async with measured(short_dir, CallbackServicer(Chat=resets)) as (metrics, channel):
        with trio.move_on_after(0.1):
            async with stub(channel).Chat() as call:
                await call.receive_message()
                await has_reset.wait()
                await trio.sleep_forever()
        found = CollectedMetrics(metrics.collect())
    for name in ("client.attempt", "client.call"):
        assert found.statuses(f"grpc.{name}.duration") == {"DEADLINE_EXCEEDED": 1}


async def test_a_call_that_never_gets_an_endpoint_is_counted(short_dir: Path) -> None:
    metrics = Metrics()
    with metrics.install():
        async with connect_to(f"unix:{short_dir / 'nobody'}") as channel:
            with trio.move_on_after(0.05):
                await stub(channel).Echo(echo_request("?"))
            with trio.move_on_after(0.05):
                await stub(channel).Chat()
            found = CollectedMetrics(metrics.collect())
    for method in (ECHO, CHAT):
        for name in ("attempt", "call"):
            labels = {"grpc_method": method, "grpc_status": "DEADLINE_EXCEEDED"}
            assert found.count(f"grpc.client.{name}.duration", **labels) == 1


@asynccontextmanager
async def denies(call: ClientCall) -> AsyncIterator[None]:
    if not call.metadata:
        raise purerpc.PermissionDeniedError("no token")
    await trio.sleep(0.1)
    yield


@pytest.mark.parametrize("method", [ECHO, REPEAT])
async def test_what_interceptors_do_is_of_the_call_and_of_no_attempt(
    method: str, short_dir: Path
) -> None:
    async with measured(short_dir, interceptors=[denies]) as (metrics, channel):
        calls = stub(channel)
        for metadata in ((), (("token", "x"),)):
            with nullcontext() if metadata else pytest.raises(purerpc.PermissionDeniedError):
                if method == ECHO:
                    await calls.Echo(echo_request("hi"), metadata=metadata)
                else:
                    await all_of(calls.Repeat(ONE, metadata=metadata))
        found = CollectedMetrics(metrics.collect())
    assert found.statuses("grpc.client.call.duration") == {"OK": 1, "PERMISSION_DENIED": 1}
    assert found.statuses("grpc.client.attempt.duration") == {"OK": 1}
    took = found.value("grpc.client.call.duration", grpc_status="OK").sum
    assert found.value("grpc.client.attempt.duration", grpc_status="OK").sum < took - 0.1


async def test_methods_nobody_handles_are_other(short_dir: Path) -> None:
    async with measured(short_dir) as (metrics, channel):
        for number in range(20):
            from meshtrio.client.multicallable import make_multicallable

            method = Method(f"attack.S{number}", "M", EchoRequest, EchoReply, False, False)
            with pytest.raises(purerpc.UnimplementedError):
                await make_multicallable(channel, method)(echo_request("?"))
        found = CollectedMetrics(metrics.collect())
    assert found.value("grpc.server.call.started", grpc_method="other") == 20
    status = {"grpc_method": "other", "grpc_status": "UNIMPLEMENTED"}
    assert found.count("grpc.server.call.duration", **status) == 20
    assert len(found.by_name["grpc.server.call.started"].points) == 1


def test_a_client_tells_so_many_methods_apart() -> None:
    metrics = ClientMetrics()
    for number in range(5000):
        method = Method(f"a.S{number}", "M", None, None, False, False)
        metrics.trace_method("mesh:///plugin.x", method)().call_ended((99, "no such status"))
    found = CollectedMetrics(metrics.collect())
    assert len(found.by_name["grpc.client.call.duration"].points) == 1001
    assert found.count("grpc.client.call.duration", grpc_method="other") == 4000
    assert set(found.statuses("grpc.client.call.duration")) == {"UNKNOWN"}


async def test_attempts_and_the_delays_between_them_are_counted(short_dir: Path) -> None:
    policy = {
        "maxAttempts": 4,
        "initialBackoff": "0.02s",
        "maxBackoff": "0.02s",
        "backoffMultiplier": 1,
        "retryableStatusCodes": ["UNAVAILABLE"],
    }
    config = {"methodConfig": [{"name": [{}], "retryPolicy": policy}]}
    failures = iter([purerpc.UnavailableError("1"), purerpc.UnavailableError("2"), None, None])
    async with measured(short_dir, make_servicer_failing_with(failures), config) as (
        metrics,
        channel,
    ):
        await stub(channel).Echo(echo_request("?"))
        await stub(channel).Echo(echo_request("?"))
        found = CollectedMetrics(metrics.collect())
    attempts = "grpc.client.attempt.duration"
    assert found.count(attempts, grpc_method=ECHO, grpc_status="UNAVAILABLE") == 2
    assert found.count(attempts, grpc_method=ECHO, grpc_status="OK") == 2
    assert found.value("grpc.client.attempt.started", grpc_method=ECHO) == 4
    assert found.statuses("grpc.client.call.duration") == {"OK": 2}
    # The call without a retry is not reported.
    retries = found.value("grpc.client.call.retries", grpc_method=ECHO)
    assert (sum(retries.counts), retries.sum) == (1, 2)
    delay = found.value("grpc.client.call.retry_delay", grpc_method=ECHO)
    assert sum(delay.counts) == 1
    assert 0.02 < delay.sum < 1
    assert not found.by_name["grpc.client.call.hedges"].points


async def test_hedges_are_counted(short_dir: Path) -> None:
    policy = {"maxAttempts": 3, "hedgingDelay": "0.01s"}
    config = {"methodConfig": [{"name": [{}], "hedgingPolicy": policy}]}
    until = CancellationRecorder()
    calls = iter(range(3))

    async def echo(message: EchoRequest) -> EchoReply:
        return echo_reply("quick") if next(calls) else await until(message)

    async with measured(short_dir, CallbackServicer(Echo=echo), config) as (metrics, channel):
        await stub(channel).Echo(echo_request("?"))
        found = CollectedMetrics(metrics.collect())
    assert found.value("grpc.client.call.hedges", grpc_method=ECHO).sum == 1
    assert found.statuses("grpc.client.attempt.duration") == {"OK": 1, "CANCELLED": 1}


async def test_ejections_are_counted(short_dir: Path) -> None:
    async def fails(message: EchoRequest) -> EchoReply:
        raise purerpc.InternalError("broken")

    metrics, feed = Metrics(experimental=True), FakeResolver()
    with metrics.install():
        async with (
            serve_on_socket(short_dir / "a", Server(CallbackServicer(Echo=fails))),
            serve_on_socket(short_dir / "b", Server(CallbackServicer(Echo=fails))),
            open_channel(
                "plugin.x", feed, service_config=parse_service_config(OUTLIER_DETECTION_CONFIG)
            ) as channel,
        ):
            feed.set(unix_endpoint(short_dir / "a"), unix_endpoint(short_dir / "b"))
            for _ in range(20):
                with pytest.raises(purerpc.InternalError):
                    await stub(channel).Echo(echo_request("?"))
            found = CollectedMetrics(metrics.collect())
    labels = {"grpc.target": "mesh:///plugin.x"}
    labels["grpc.lb.outlier_detection.detection_method"] = "consecutive_failures"
    enforced = found.by_name["grpc.lb.outlier_detection.ejections_enforced"].points
    assert [(dict(point.labels), point.value) for point in enforced] == [(labels, 1)]
    (unenforced,) = found.by_name["grpc.lb.outlier_detection.ejections_unenforced"].points
    reason = "grpc.lb.outlier_detection.unenforced_reason"
    assert dict(unenforced.labels) == {**labels, reason: "max_ejection_overflow"}
