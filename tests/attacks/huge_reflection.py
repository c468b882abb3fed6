"""Reflection of a mesh whose plugin answers with 4 MB of descriptors, asked again and again."""

from __future__ import annotations

from meshtrio.messages import reflection_v1
from tests.attacks.control import ask_again_and_again

PATH = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"


async def run(address: str, seconds: float) -> None:
    """Ask for `seconds`."""
    request = reflection_v1.ServerReflectionRequest(list_services="")
    await ask_again_and_again(address, PATH, request.SerializeToString(), seconds)
