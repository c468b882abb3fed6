"""grpcio: its asyncio interface, and threads."""

from __future__ import annotations

import asyncio
import queue
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from echo.v1 import echo_pb2 as pb

from tests.benchmarks.peers.async_peer import AsyncioPeer, Calls, Receive, Send
from tests.benchmarks.peers.base import (
    DEADLINE,
    HUGE,
    SERVICE,
    SMALL,
    SMALL_REPLIES,
    STREAM_LENGTH,
    LoopTimer,
    Measurement,
    call_metadata,
    sync_requests,
    tls_files,
)

NO_LIMIT = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


class GrpcAio(AsyncioPeer):
    name = "grpc.aio"

    def serve(self, address: str) -> None:
        asyncio.run(self._serve(address))

    async def _serve(self, address: str) -> None:
        import grpc

        server = grpc.aio.server(options=NO_LIMIT)
        server.add_generic_rpc_handlers([_grpcio_handlers(_AioEcho)])
        _add_port(server, address)
        await server.start()
        await server.wait_for_termination()

    @asynccontextmanager
    async def calls(self, address: str) -> AsyncIterator[Calls]:
        import grpc

        async with _open_channel(grpc.aio, address) as channel:
            echo = _grpcio_method(channel, "unary_unary", "Echo")
            chat = _grpcio_method(channel, "stream_stream", "Chat")
            yield Calls(
                echo=echo,
                echo_with_deadline=partial(echo, timeout=DEADLINE),
                echo_with_metadata=lambda request: echo(request, metadata=call_metadata()),
                repeat=_grpcio_method(channel, "unary_stream", "Repeat"),
                join=_grpcio_method(channel, "stream_unary", "Join"),
                chat=chat,
                open_chat=partial(_open_chat, chat),
            )


@asynccontextmanager
async def _open_chat(method: Any) -> AsyncIterator[tuple[Send, Receive]]:
    call = method()
    yield call.write, call.read


def _add_port(server: Any, address: str) -> None:
    import grpc

    files = tls_files()
    if files is None:
        server.add_insecure_port(f"unix:{address}")
    else:
        pair = (files.key.read_bytes(), files.certificate.read_bytes())
        server.add_secure_port(f"unix:{address}", grpc.ssl_server_credentials([pair]))


def _open_channel(module: Any, address: str) -> Any:
    """Open a channel of `grpc.aio` or `grpc`."""
    import grpc

    files = tls_files()
    if files is None:
        return module.insecure_channel(f"unix:{address}", options=NO_LIMIT)
    credentials = grpc.ssl_channel_credentials(files.authority.read_bytes())
    options = [*NO_LIMIT, ("grpc.ssl_target_name_override", files.SERVER_NAME)]
    return module.secure_channel(f"unix:{address}", credentials, options=options)


def _grpcio_method(channel: Any, kind: str, name: str) -> Any:
    request_type = pb.RepeatRequest if name == "Repeat" else pb.EchoRequest
    make = getattr(channel, kind)
    return make(SERVICE + name, request_type.SerializeToString, pb.EchoReply.FromString)


class _AioEcho:
    @staticmethod
    async def Echo(request: Any, context: Any) -> Any:
        return pb.EchoReply(message=request.message)

    @staticmethod
    async def Repeat(request: Any, context: Any) -> AsyncIterator[Any]:
        reply = pb.EchoReply(message=request.message)
        for _ in range(request.count):
            yield reply

    @staticmethod
    async def Join(requests: AsyncIterator[Any], context: Any) -> Any:
        count = 0
        async for _ in requests:
            count += 1
        return pb.EchoReply(instance=count)

    @staticmethod
    async def Chat(requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        async for request in requests:
            yield pb.EchoReply(message=request.message)

    @staticmethod
    async def Slow(request: Any, context: Any) -> Any:
        await asyncio.sleep(request.seconds)
        return pb.EchoReply()


def _grpcio_handlers(servicer: Any) -> Any:
    import grpc

    def handler(kind: str, name: str, request_type: Any) -> Any:
        make = getattr(grpc, f"{kind}_rpc_method_handler")
        function = getattr(servicer, name)
        return make(function, request_type.FromString, pb.EchoReply.SerializeToString)

    methods = {
        "Echo": handler("unary_unary", "Echo", pb.EchoRequest),
        "Slow": handler("unary_unary", "Slow", pb.SlowRequest),
        "Repeat": handler("unary_stream", "Repeat", pb.RepeatRequest),
        "Join": handler("stream_unary", "Join", pb.EchoRequest),
        "Chat": handler("stream_stream", "Chat", pb.EchoRequest),
    }
    return grpc.method_handlers_generic_handler("echo.v1.EchoService", methods)


# -- grpcio with threads -------------------------------------------------------------------------


class GrpcioThreads:
    name = "grpcio"

    def serve(self, address: str) -> None:
        import grpc

        server = grpc.server(ThreadPoolExecutor(16), options=NO_LIMIT)
        server.add_generic_rpc_handlers([_grpcio_handlers(_ThreadEcho)])
        _add_port(server, address)
        server.start()
        server.wait_for_termination()

    def run(self, case: Callable[..., Measurement], *arguments: Any) -> Measurement:
        return case(*arguments)

    def unary(self, address: str, request: Any, width: int, seconds: float) -> Measurement:
        with _open_threads_channel(address) as channel:
            call = _grpcio_method(channel, "unary_unary", "Echo")
            return self._in_flight(lambda: call(request), width, seconds)

    def unary_with_deadline(self, address: str, seconds: float) -> Measurement:
        with _open_threads_channel(address) as channel:
            call = _grpcio_method(channel, "unary_unary", "Echo")
            return self._in_flight(lambda: call(SMALL, timeout=DEADLINE), 1, seconds)

    def unary_with_metadata(self, address: str, seconds: float) -> Measurement:
        with _open_threads_channel(address) as channel:
            call = _grpcio_method(channel, "unary_unary", "Echo")
            return self._in_flight(lambda: call(SMALL, metadata=call_metadata()), 1, seconds)

    def _in_flight(self, call: Callable[[], Any], width: int, seconds: float) -> Measurement:
        clock = LoopTimer(seconds)
        for _ in range(20):
            call()

        def loop() -> int:
            count = 0
            while clock.is_running:
                call()
                count += 1
            return count

        with ThreadPoolExecutor(width) as threads:
            clock.start()
            clock.count = sum(f.result() for f in [threads.submit(loop) for _ in range(width)])
            return clock.stop()

    def stream(self, address: str, seconds: float) -> Measurement:
        clock = LoopTimer(seconds)
        waiting: queue.SimpleQueue[Any] = queue.SimpleQueue()
        with _open_threads_channel(address) as channel:
            replies = _grpcio_method(channel, "stream_stream", "Chat")(iter(waiting.get, None))
            for _ in range(100):
                waiting.put(SMALL)
            clock.start()
            while clock.is_running:
                next(replies)
                clock.count += 1
                waiting.put(SMALL)
            measured = clock.stop()
            waiting.put(None)
            return measured

    def generator_stream(self, address: str, seconds: float) -> Measurement:
        with _open_threads_channel(address) as channel:
            chat = _grpcio_method(channel, "stream_stream", "Chat")
            return self._count_replies(lambda: chat(sync_requests()), seconds)

    def server_stream(self, address: str, seconds: float) -> Measurement:
        with _open_threads_channel(address) as channel:
            repeat = _grpcio_method(channel, "unary_stream", "Repeat")
            return self._count_replies(lambda: repeat(SMALL_REPLIES), seconds)

    def download(self, address: str, seconds: float) -> Measurement:
        with _open_threads_channel(address) as channel:
            repeat = _grpcio_method(channel, "unary_stream", "Repeat")
            return self._count_replies(lambda: repeat(HUGE), seconds)

    def _count_replies(self, call: Callable[[], Any], seconds: float) -> Measurement:
        clock = LoopTimer(seconds)
        clock.start()
        while clock.is_running:
            for _ in call():
                clock.count += 1
        return clock.stop()

    def client_stream(self, address: str, seconds: float) -> Measurement:
        clock = LoopTimer(seconds)
        with _open_threads_channel(address) as channel:
            join = _grpcio_method(channel, "stream_unary", "Join")
            clock.start()
            while clock.is_running:
                reply = join(sync_requests())
                assert reply.instance == STREAM_LENGTH
                clock.count += STREAM_LENGTH
            return clock.stop()

    def connect(self, address: str, seconds: float) -> Measurement:
        clock = LoopTimer(seconds)

        def connect_and_call() -> None:
            with _open_threads_channel(address) as channel:
                _grpcio_method(channel, "unary_unary", "Echo")(SMALL)

        connect_and_call()
        clock.start()
        while clock.is_running:
            connect_and_call()
            clock.count += 1
        return clock.stop()


def _open_threads_channel(address: str) -> Any:
    import grpc

    return _open_channel(grpc, address)


class _ThreadEcho:
    @staticmethod
    def Echo(request: Any, context: Any) -> Any:
        return pb.EchoReply(message=request.message)

    @staticmethod
    def Repeat(request: Any, context: Any) -> Iterator[Any]:
        reply = pb.EchoReply(message=request.message)
        for _ in range(request.count):
            yield reply

    @staticmethod
    def Join(requests: Iterator[Any], context: Any) -> Any:
        return pb.EchoReply(instance=sum(1 for _ in requests))

    @staticmethod
    def Chat(requests: Iterator[Any], context: Any) -> Iterator[Any]:
        for request in requests:
            yield pb.EchoReply(message=request.message)

    @staticmethod
    def Slow(request: Any, context: Any) -> Any:
        time.sleep(request.seconds)
        return pb.EchoReply()
