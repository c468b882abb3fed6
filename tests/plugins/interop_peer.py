"""The peer of tests/interop/foreign_peers.py on meshtrio: what the foreign stacks' clients call."""

import sys

import purerpc
import trio

from meshtrio import mesh, plugin
from meshtrio.rpc.errors import error_for_status
from tests.interop.messages import METHODS, SERVICE, PeerStub, RawMessage

HELD = 0.3
"""Seconds; a call that takes so long is announced on stderr."""


def echoed(request, size_key):
    """The metadata that the caller asks for; meshtrio can send no `x-raw`."""
    pairs = [pair for pair in request.custom_metadata if pair[0].startswith("x-echo")]
    size = dict(request.custom_metadata).get(size_key)
    return pairs if size is None else [*pairs, ("x-large", "a" * int(size))]


async def wait(request):
    asked = dict(request.custom_metadata)
    delay = int(asked.get("x-sleep-ms", 0)) / 1000
    if "x-before-deadline-ms" in asked:
        left = request.deadline - trio.current_time()
        delay = left - int(asked["x-before-deadline-ms"]) / 1000
    if delay >= HELD:
        print("holding", file=sys.stderr, flush=True)
    await trio.sleep(max(0, delay))


async def finish(request):
    """Wait as the caller asks, and raise the status it asks for."""
    request.initial_metadata = echoed(request, "x-initial-size")
    request.trailing_metadata = echoed(request, "x-trailing-size")
    await wait(request)
    asked = dict(request.custom_metadata)
    if "x-status" in asked:
        raise error_for_status(int(asked["x-status"]), asked.get("x-message-bin", b"").decode())


class Peer:
    async def Unary(self, message, request):
        await finish(request)
        onward = dict(request.custom_metadata).get("x-call-on")
        if onward is not None:
            async with mesh.connect(onward) as channel:
                return await channel.stub(PeerStub).Unary(message)
        return message

    async def ServerStream(self, message, request):
        await finish(request)
        for byte in message.data:
            yield RawMessage(bytes([byte]))

    async def ClientStream(self, messages, request):
        joined = b"".join([message.data async for message in messages])
        await finish(request)
        return RawMessage(joined)

    async def Bidi(self, messages, request):
        request.initial_metadata = echoed(request, "x-initial-size")
        async for message in messages:
            yield message
        await finish(request)


def service():
    peer, made = Peer(), purerpc.Service(SERVICE)
    for name, signature in METHODS.items():
        made.add_method(name, getattr(peer, name), signature)
    return made


if __name__ == "__main__":
    plugin.run(service())
