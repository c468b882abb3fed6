"""Reflection of a mesh whose plugin answers with 4 MB of descriptors.

The plugin is asked whenever it is another process than before, so it is restarted again and again.
"""

from __future__ import annotations

import trio

from meshtrio.messages import control, reflection_v1
from tests.attacks.control import call_method, call_method_repeatedly

PATH = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"


async def run(address: str, seconds: float) -> None:
    """Ask for `seconds`."""
    request = reflection_v1.ServerReflectionRequest(list_services="")
    restart = control.RestartRequest(name="reflecting0").SerializeToString()
    with trio.move_on_after(seconds):
        while True:
            await call_method_repeatedly(address, PATH, request.SerializeToString(), 1.0)
            await call_method(address, "/meshtrio.v1.Control/Restart", restart)
