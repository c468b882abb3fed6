"""Tasks serve one call after another, and no call notices the others."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

import purerpc
import pytest
import trio
import trio.testing
from echo.v1.echo_grpc import EchoServiceServicer
from echo.v1.echo_pb2 import EchoReply

from meshtrio.rpc.handler_tasks import HandlerTasks
from tests.support.connection_pairs import connect_pair, echo_request

pytestmark = pytest.mark.usefixtures("sleeping_and_polling")
left_by_a_call: ContextVar[str] = ContextVar("left_by_a_call", default="")


class Recording(EchoServiceServicer):
    """Records what each call finds in its task."""

    def __init__(self) -> None:
        self.tasks: list[trio.lowlevel.Task] = []
        self.found: list[str] = []
        self.deadlines: list[float] = []

        self.open_scope: trio.CancelScope | None = None
        self.is_waiting = trio.Event()
        self.many = 0
        self.all_there = trio.Event()

    async def Echo(self, request: Any) -> EchoReply:
        self.tasks.append(trio.lowlevel.current_task())
        self.found.append(left_by_a_call.get())
        self.deadlines.append(trio.current_effective_deadline())
        left_by_a_call.set(request.message)
        if request.message == "wait":
            self.is_waiting.set()
            await trio.sleep_forever()
        if request.message == "one of ten":
            self.many += 1
            if self.many == 10:
                self.all_there.set()
            await self.all_there.wait()
        if request.message == "leave a scope open":
            self.open_scope = trio.CancelScope()
            self.open_scope.__enter__()
        return EchoReply(message=request.message)


async def test_calls_share_a_task_and_nothing_else() -> None:
    servicer = Recording()
    async with connect_pair(servicer) as pair:
        await pair.stub.Echo(echo_request("first"))
        with trio.fail_after(60):
            await pair.stub.Echo(echo_request("second"))
        await pair.stub.Echo(echo_request("third"))
    assert len(set(servicer.tasks)) == 1
    assert servicer.found == ["", "", ""]
    assert servicer.deadlines[0] == servicer.deadlines[2] == float("inf")
    assert servicer.deadlines[1] < trio.current_time() + 60


async def test_the_deadline_of_a_call_that_has_ended_cancels_no_other() -> None:
    servicer = Recording()
    async with connect_pair(servicer) as pair:
        with trio.move_on_after(0.05) as scope:
            await pair.stub.Echo(echo_request("in time"))
        assert not scope.cancelled_caught
        await pair.stub.Echo(echo_request("in the same task"))
        with trio.move_on_at(scope.deadline):
            await pair.stub.Echo(echo_request("in time, too"))
        await trio.sleep_until(scope.deadline + 0.05)
        assert (await pair.stub.Echo(echo_request("after it"))).message == "after it"
    assert servicer.tasks[0] is servicer.tasks[1] is servicer.tasks[2]
    assert servicer.deadlines[1] == servicer.deadlines[3] == float("inf")


@pytest.mark.parametrize("ends_by", ["the deadline", "the caller", "the connection"])
async def test_a_cancelled_call_cancels_no_other(ends_by: str) -> None:
    servicer = Recording()
    async with connect_pair(servicer) as pair:
        await pair.stub.Echo(echo_request("first"))
        with trio.move_on_after(0.05 if ends_by == "the deadline" else 60) as scope:
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def _() -> None:
                    try:
                        await pair.stub.Echo(echo_request("wait"))
                    except purerpc.RpcFailedError:
                        assert ends_by == "the connection"

                await servicer.is_waiting.wait()
                if ends_by == "the caller":
                    scope.cancel()
                elif ends_by == "the connection":
                    pair.break_connection()
        if ends_by != "the connection":
            assert (await pair.stub.Echo(echo_request("next"))).message == "next"
            assert servicer.tasks[1] is servicer.tasks[0]
            assert servicer.tasks[2] is not servicer.tasks[0]


async def test_a_scope_that_a_handler_leaves_open_encloses_no_other_call(
    caplog: pytest.LogCaptureFixture,
) -> None:
    servicer = Recording()
    async with connect_pair(servicer) as pair:
        await pair.stub.Echo(echo_request("leave a scope open"))
        assert servicer.open_scope is not None
        servicer.open_scope.cancel()
        assert (await pair.stub.Echo(echo_request("next"))).message == "next"
        await pair.wait_until_idle()
    assert servicer.tasks[0] is not servicer.tasks[1]
    assert "the handler raised" in caplog.text
    assert "Cancel scope" in caplog.text


async def test_tasks_that_are_not_needed_end() -> None:
    async with connect_pair(Recording()) as pair:
        before = trio.lowlevel.current_statistics().tasks_living
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(pair.stub.Echo, echo_request("one of ten"))
        await trio.testing.wait_all_tasks_blocked()
        assert trio.lowlevel.current_statistics().tasks_living == before + 10
        pair.server.handler_tasks.end_unused()  # All were needed until now.
        await pair.stub.Echo(echo_request("one"))
        pair.server.handler_tasks.end_unused()
        await trio.testing.wait_all_tasks_blocked()
        assert trio.lowlevel.current_statistics().tasks_living == before + 1


class FakeOwner:
    """Starts tasks in a nursery, and polls by a function that is given to it."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.streams: dict[int, object] = {}
        self.start_soon = nursery.start_soon
        self.polls: list[Callable[[], Awaitable[None]]] = []

    @property
    def can_poll(self) -> bool:
        return bool(self.polls)

    async def poll(self, is_done: Callable[[], bool]) -> None:
        await self.polls.pop(0)()


class FakeCall:
    """Records whether it was cancelled."""

    path = "/service/Method"

    def __init__(self, timeout: float | None) -> None:
        self.timeout = timeout
        self.ended_by = ""
        self.task: trio.lowlevel.Task | None = None

    async def run(self, scope: trio.CancelScope) -> bool:
        self.task = trio.lowlevel.current_task()
        assert self.task.name == self.path
        await trio.lowlevel.checkpoint()
        self.ended_by = "itself"
        return not scope.cancel_called

    def end_after(self, exc: BaseException | None) -> None:
        self.ended_by = self.ended_by or ("its scope" if exc is None else "cancellation")
        if exc is not None:
            raise exc


@pytest.mark.parametrize("before", [None, 60.0])
async def test_a_timeout_of_zero_cancels_its_call_and_no_other(before: float | None) -> None:
    async with trio.open_nursery() as nursery:
        tasks = HandlerTasks(FakeOwner(nursery))
        calls = [FakeCall(before), FakeCall(0.0), FakeCall(None), FakeCall(0.0), FakeCall(None)]
        for call in calls:
            tasks.start(call)
            await trio.testing.wait_all_tasks_blocked()
        assert [call.ended_by for call in calls] == ["itself", "its scope"] * 2 + ["itself"]
        assert calls[0].task is calls[1].task is not calls[2].task
        nursery.cancel_scope.cancel()


async def test_cancelling_a_waiting_task_ends_it() -> None:
    async with trio.open_nursery() as nursery:
        tasks = HandlerTasks(FakeOwner(nursery))
        call = FakeCall(None)
        tasks.start(call)
        await trio.testing.wait_all_tasks_blocked()
        kept = weakref.ref(call)
        del call
        gc.collect()
        assert kept() is None
        nursery.cancel_scope.cancel()


async def test_a_task_that_polls_serves_what_it_finds() -> None:
    found: list[str] = []
    value: ContextVar[str] = ContextVar("value", default="")

    class Call(FakeCall):
        async def run(self, scope: trio.CancelScope) -> bool:
            found.append(value.get())
            value.set("of the last call")
            return await super().run(scope)

    async with trio.open_nursery() as nursery:
        owner = FakeOwner(nursery)
        tasks, calls = HandlerTasks(owner), [Call(60.0), Call(None), Call(0.0), Call(None)]

        async def find_next() -> None:
            await trio.lowlevel.checkpoint()
            tasks.start(calls[sum(bool(call.ended_by) for call in calls)])

        value.set("of the connection")
        owner.polls = [find_next] * 2
        tasks.start(calls[0])
        await trio.testing.wait_all_tasks_blocked()
        tasks.start(calls[3])
        await trio.testing.wait_all_tasks_blocked()
        assert [call.ended_by for call in calls] == ["itself", "itself", "its scope", "itself"]
        assert calls[0].task is calls[1].task
        assert found == ["of the connection"] * 4
        nursery.cancel_scope.cancel()


async def test_a_call_that_comes_in_the_turn_of_another_task_is_not_lost() -> None:
    async with trio.open_nursery() as nursery:
        owner = FakeOwner(nursery)
        tasks, calls = HandlerTasks(owner), [FakeCall(60.0), FakeCall(0.0), FakeCall(None)]

        async def sleep_until_call() -> None:
            tasks.start(calls[1])  # As the read loop does between two steps of this task.
            await trio.lowlevel.checkpoint()

        owner.polls = [sleep_until_call]
        tasks.start(calls[0])
        await trio.testing.wait_all_tasks_blocked()
        assert [call.ended_by for call in calls] == ["itself", "its scope", ""]
        tasks.start(calls[2])
        await trio.testing.wait_all_tasks_blocked()
        assert calls[2].ended_by == "itself"
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("ends_by", ["cancellation", "not being needed"])
async def test_a_task_that_polls_ends(ends_by: str) -> None:
    async with trio.open_nursery() as nursery, trio.open_nursery() as handlers:
        owner = FakeOwner(handlers)
        tasks, is_polling, go_on = HandlerTasks(owner), trio.Event(), trio.Event()

        async def poll() -> None:
            is_polling.set()
            await go_on.wait()

        owner.polls = [poll]
        tasks.start(FakeCall(None))
        await is_polling.wait()
        if ends_by == "cancellation":
            handlers.cancel_scope.cancel()
            await trio.testing.wait_all_tasks_blocked()
            owner.start_soon = nursery.start_soon
            tasks.start(last := FakeCall(None))
            await trio.testing.wait_all_tasks_blocked()
            assert last.ended_by == "itself"
            nursery.cancel_scope.cancel()
        else:
            tasks.end_unused()
            tasks.end_unused()
            go_on.set()


async def test_nothing_is_kept_of_a_call_that_has_ended() -> None:
    kept: list[weakref.ref[object]] = []

    class Something:
        pass

    held: ContextVar[object] = ContextVar("held")

    class Holding(EchoServiceServicer):
        async def Echo(self, request: Any) -> EchoReply:
            something = Something()
            kept.append(weakref.ref(something))
            held.set(something)
            return EchoReply(message=request.message)

    async with connect_pair(Holding()) as pair:
        await pair.stub.Echo(echo_request("first"))
        await trio.testing.wait_all_tasks_blocked()
        gc.collect()
        assert kept[0]() is None
