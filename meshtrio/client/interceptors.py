"""Client interceptors: async context managers around each call of a channel.

    @asynccontextmanager
    async def timed(call: ClientCall):
        call.metadata.append(("x-request-id", new_id()))
        started_at = trio.current_time()
        try:
            yield
        finally:
            print(call.method, trio.current_time() - started_at)

    async with m.connect("plugin.echo", interceptors=[timed]) as channel: ...

A call that fails raises inside the block, so that an interceptor sees its error and may raise
another. Retries happen within one block. The first interceptor is the outermost.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, ClassVar, TypeVar

import attrs
import trio

from meshtrio.client.attempt import Attempt
from meshtrio.client.call_destination import CallContext
from meshtrio.grpc.metadata import Metadata
from meshtrio.util.concurrency import split_cancelled
from meshtrio.util.no_public_constructor import NoPublicConstructor, create

T = TypeVar("T")


@attrs.define
class ClientCall(metaclass=NoPublicConstructor):
    """A call, as its interceptors see it."""

    _made_by: ClassVar = "interceptors are called with it"
    service: str
    """Name of the channel's service: "plugin.echo"."""
    method: str
    """Path of the method: "/pkg.Service/Method"."""
    metadata: list[tuple[str, str | bytes]]
    """Metadata to be sent; an interceptor may change it before it yields."""
    deadline: float
    """Deadline of the caller's cancel scope, on trio's clock; infinite if there is none."""
    attempt: Attempt | None = None
    """The attempt that gave the reply, or the one under way if the call streams."""

    @property
    def peer(self) -> str:
        """Address of the endpoint, "" until one was picked."""
        return "" if self.attempt is None else self.attempt.address

    @property
    def initial_metadata(self) -> Metadata | None:
        """Metadata of the response headers, None until they arrive."""
        return None if self.attempt is None else self.attempt.initial_metadata

    @property
    def trailing_metadata(self) -> Metadata | None:
        """Metadata of the trailers, None until they arrive."""
        return None if self.attempt is None else self.attempt.trailing_metadata


Interceptor = Callable[[ClientCall], AbstractAsyncContextManager[Any]]


def call_credentials(
    get_metadata: Callable[[ClientCall], Awaitable[Iterable[tuple[str, str | bytes]]]],
) -> Interceptor:
    """Make an interceptor that adds metadata to each call, such as a token that is renewed.

    Args:
        get_metadata: Called for each call; returns the pairs to add.

    Returns:
        The interceptor.
    """

    @asynccontextmanager
    async def credentials(call: ClientCall) -> Any:
        call.metadata.extend(await get_metadata(call))
        yield

    return credentials


def make_client_call(call: CallContext) -> ClientCall:
    """Describe a call to its interceptors; called in the task of its caller."""
    name, path, metadata = call.channel.name, call.method.path, list(call.options.metadata)
    return create(ClientCall, name, path, metadata, trio.current_effective_deadline())


async def intercept(
    interceptors: Sequence[Interceptor], call: ClientCall, body: Callable[[], Awaitable[T]]
) -> T:
    """Run a call inside its interceptors, unary or streaming.

    They are entered and exited in the task that runs this: the caller's for unary calls, and one
    of the channel's for streaming calls (see `InterceptorTask`). An interceptor that suppresses
    the failure of a call has no reply to give instead, so that the failure is raised all the same.
    """
    async with AsyncExitStack() as stack:
        for interceptor in interceptors:
            await stack.enter_async_context(interceptor(call))
        try:
            return await body()
        except Exception as exc:
            failure = exc
            raise
    raise failure


class InterceptorTask:
    """Runs the interceptors of a streaming call.

    They need a task of their own: a streaming call may be used from several tasks, and ended by
    `cancel`, which does not wait, while an interceptor may use cancel scopes and await.
    """

    __slots__ = ("_call_ended", "_entered", "_exited", "_failure", "_interceptors", "call", "error")

    def __init__(self, interceptors: Sequence[Interceptor], call: ClientCall) -> None:
        self._interceptors = interceptors
        self.call = call
        self.error: BaseException | None = None
        """The exception that the interceptors raised, or let through."""
        self._failure: BaseException | None = None
        self._entered = trio.Event()
        self._call_ended = trio.Event()
        self._exited = trio.Event()

    async def run(self) -> None:
        """Enter the interceptors, wait for `request_exit`, and exit them."""
        try:
            await intercept(self._interceptors, self.call, self._wait_for_end)
        except BaseException as exc:
            cancelled, self.error = split_cancelled(exc)
            if cancelled is not None:
                raise cancelled from None
        finally:
            self._entered.set()
            self._exited.set()

    async def _wait_for_end(self) -> None:
        self._entered.set()
        await self._call_ended.wait()
        if self._failure is not None:
            raise self._failure

    async def wait_entered(self) -> None:
        """Wait until the call may start; raises the exception of an interceptor."""
        await self._entered.wait()
        if self.error is not None:
            raise self.error

    def request_exit(self, failure: BaseException | None = None) -> None:
        """Let the interceptors exit, with the call's failure if there is one. Idempotent."""
        if not self._call_ended.is_set():
            self._failure = failure
            self._call_ended.set()

    async def exit_and_wait(self, failure: BaseException | None) -> BaseException | None:
        """Let the interceptors exit; returns the exception to raise to the caller."""
        self.request_exit(failure)
        await self._exited.wait()
        return self.error
