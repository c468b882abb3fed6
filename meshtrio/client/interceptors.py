"""Interceptors of a client: async context managers around each call of a channel.

    @asynccontextmanager
    async def timed(call: ClientCall):
        call.metadata.append(("x-request-id", new_id()))
        began = trio.current_time()
        try:
            yield
        finally:
            print(call.method, trio.current_time() - began)

    async with m.connect("plugin.echo", interceptors=[timed]) as channel: ...

A call that fails raises in the block, so an interceptor sees how it ended, and may raise another
error instead. Retries are within the one block. The first interceptor is the outermost.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

import attrs
import trio

from meshtrio.client.attempt import Attempt
from meshtrio.client.call_destination import CallDestination, CallOptions
from meshtrio.grpc.metadata import Metadata
from meshtrio.rpc.method import Method
from meshtrio.util.concurrency import split_cancelled


@attrs.define
class ClientCall:
    """A call as an interceptor sees it."""

    service: str
    """What the channel is connected to."""
    method: str
    """The path: "/pkg.Service/Method"."""
    metadata: list[tuple[str, str | bytes]]
    """What goes out with the call; to be changed before it does."""
    deadline: float
    """trio's clock; infinite where its caller set none."""
    attempt: Attempt | None = None

    @property
    def peer(self) -> str:
        """The address of the endpoint, "" before there is one."""
        return "" if self.attempt is None else self.attempt.address

    @property
    def initial_metadata(self) -> Metadata | None:
        """What came with the head of the reply, None before it did."""
        return None if self.attempt is None else self.attempt.initial_metadata

    @property
    def trailing_metadata(self) -> Metadata | None:
        return None if self.attempt is None else self.attempt.trailing_metadata


Interceptor = Callable[[ClientCall], AbstractAsyncContextManager[Any]]


def call_credentials(
    get_metadata: Callable[[ClientCall], Awaitable[Iterable[tuple[str, str | bytes]]]],
) -> Interceptor:
    """An interceptor that adds what `get` gives for each call: a token that is renewed, say."""

    @asynccontextmanager
    async def credentials(call: ClientCall) -> Any:
        call.metadata.extend(await get_metadata(call))
        yield

    return credentials


def make_client_call(channel: CallDestination, method: Method, options: CallOptions) -> ClientCall:
    return ClientCall(
        channel.name, method.path, list(options.metadata), trio.current_effective_deadline()
    )


async def enter_interceptors(
    stack: AsyncExitStack, interceptors: Sequence[Interceptor], call: ClientCall
) -> None:
    for interceptor in interceptors:
        await stack.enter_async_context(interceptor(call))


class InterceptorTask:
    """The interceptors of a call that streams: they are entered by a task of the channel, which
    leaves them when the call is over, however its caller leaves it."""

    def __init__(self, interceptors: Sequence[Interceptor], call: ClientCall) -> None:
        self.call = call
        self.error: BaseException | None = None
        """What an interceptor raised."""
        self._interceptors = interceptors
        self._entered = trio.Event()
        self._call_ended = trio.Event()
        self._exited = trio.Event()
        self._failure: BaseException | None = None

    async def run(self) -> None:
        try:
            async with AsyncExitStack() as stack:
                await enter_interceptors(stack, self._interceptors, self.call)
                self._entered.set()
                await self._call_ended.wait()
                if self._failure is not None:
                    raise self._failure
        except trio.Cancelled:
            raise
        except BaseException as exc:
            cancelled, self.error = split_cancelled(exc)
            if cancelled is not None:
                raise cancelled from None
        finally:
            self._entered.set()
            self._exited.set()

    async def wait_entered(self) -> None:
        """Wait until the call may go out. Raises what an interceptor raised."""
        await self._entered.wait()
        if self.error is not None:
            raise self.error

    def request_exit(self, failure: BaseException | None = None) -> None:
        """The call is over; does nothing the second time."""
        if not self._call_ended.is_set():
            self._failure = failure
            self._call_ended.set()

    async def exit_and_wait(self, failure: BaseException | None) -> BaseException | None:
        """Leave and wait for it; gives the error that the caller is to have."""
        self.request_exit(failure)
        await self._exited.wait()
        return self.error
