"""Limits on the open calls of one user: counted by service, with a reserve for operators."""

from __future__ import annotations

import os
from contextlib import AsyncExitStack
from types import SimpleNamespace
from typing import Any

import purerpc
import pytest

from meshtrio.rpc.connection_limiter import RESERVED_SLOTS
from meshtrio.services.call_quota import CallQuota
from meshtrio.transport.peer import Peer

OWN = Peer(pid=os.getpid(), uid=os.geteuid())
OTHER_PROCESSES = OWN.replace(pid=0)
"""All processes of another PID namespace, which count as one session."""
OTHER_USER = OWN.replace(uid=12345)


async def open_calls(
    quota: CallQuota, stack: AsyncExitStack, peer: Peer, service: str = "a.B"
) -> int:
    """Open calls until one is refused, and return how many there are."""
    call: Any = SimpleNamespace(peer=peer, service_name=service)
    for number in range(1000):
        try:
            await stack.enter_async_context(quota(call))
        except purerpc.ResourceExhaustedError:
            return number
    pytest.fail("there is no limit")


async def test_each_user_has_a_limit_for_each_service() -> None:
    quota = CallQuota(lambda: 6)
    async with AsyncExitStack() as stack:
        assert await open_calls(quota, stack, OWN) == 6
        assert await open_calls(quota, stack, OWN, "a.C") == 6
        assert await open_calls(quota, stack, OTHER_USER) == 6
        assert await open_calls(quota, stack, OTHER_USER) == 0


async def test_other_processes_of_the_user_have_a_reserve_that_is_left_as_it_was() -> None:
    quota = CallQuota(lambda: 6)
    for _ in range(2):
        async with AsyncExitStack() as stack:
            assert await open_calls(quota, stack, OWN) == 6
            async with AsyncExitStack() as reserve:
                assert await open_calls(quota, reserve, OTHER_PROCESSES) == RESERVED_SLOTS // 2
            assert await open_calls(quota, stack, OWN) == 0
