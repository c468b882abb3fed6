"""Runs a task for a caller, who gets what it writes, and its result."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio

from meshtrio.messages import control
from meshtrio.services.control_messages import make_task_result
from meshtrio.supervisor.operations import Operations
from meshtrio.util.concurrency import open_collapsing_nursery

_MAX_BUFFERED_OUTPUT = 4 * 1024 * 1024
"""Maximum number of bytes that wait for the caller; more are dropped, since a slow caller must not
stop the task."""

_MESSAGE_SIZE = 256
"""Bytes that a message takes in addition to its data: a program may write one byte at a time."""


@attrs.define(eq=False)
class TaskOutput:
    """The messages of a run, of which the last is its result."""

    _messages: deque[Any] = attrs.field(factory=deque)
    _size: int = 0
    _missed: int = 0
    _changed: trio.lowlevel.ParkingLot = attrs.field(factory=trio.lowlevel.ParkingLot)

    def write(self, stream: str, data: bytes) -> None:
        """Add what the process has written; it is dropped if too much is waiting."""
        size = len(data) + _MESSAGE_SIZE
        if self._size + size > _MAX_BUFFERED_OUTPUT:
            self._missed += len(data)
            return
        self._size += size
        is_stdout, response = stream == "stdout", control.RunTaskResponse
        self._append(response(stdout=data) if is_stdout else response(stderr=data))

    def finish(self, result: Any) -> None:
        """Add the result."""
        self._append(control.RunTaskResponse(result=result))

    async def next_message(self) -> Any:
        """Return the next message, and wait for it."""
        while not self._messages:
            await self._changed.park()
        message = self._messages.popleft()
        self._size -= len(message.stdout) + len(message.stderr) + _MESSAGE_SIZE
        return message

    def _append(self, message: Any) -> None:
        message.missed, self._missed = self._missed, 0
        self._messages.append(message)
        self._changed.unpark_all()


@asynccontextmanager
async def running_task(operations: Operations, name: str) -> AsyncIterator[TaskOutput]:
    """Run a task during the block, at whose end it is stopped unless it has ended.

    Raises what `Operations.run_task` raises.
    """
    output = TaskOutput()

    async def run() -> None:
        output.finish(make_task_result(await operations.run_task(name, output.write)))

    async with open_collapsing_nursery() as nursery:
        nursery.start_soon(run)
        yield output
        nursery.cancel_scope.cancel()
