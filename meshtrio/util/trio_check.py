"""Detects programs that call trio code without trio, such as in asyncio."""

from __future__ import annotations

import sys

import trio

from meshtrio.errors import UsageError


def require_trio(what: str) -> None:
    """Raise UsageError if `what` is called outside of trio, such as in an asyncio program.

    Otherwise the first await would fail with an obscure error.
    """
    if not trio.lowlevel.in_trio_run():
        where = "from asyncio" if is_in_asyncio() else "from outside of trio.run"
        raise UsageError(
            f"meshtrio runs on trio: {what} was called {where}. Run the program with "
            "trio.run(main), or this part of it in a thread of its own that calls trio.run"
        )


def is_in_asyncio() -> bool:
    """Whether this thread runs an asyncio event loop."""
    asyncio = sys.modules.get("asyncio")
    if asyncio is None:
        return False
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
