"""A plugin that keeps channels and calls through them as Echo is told; see the words below."""

import sys
from pathlib import Path

import purerpc
import trio
import trio.testing

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "echo-plugin"))
from echo.v1.echo_grpc import EchoServiceServicer, EchoServiceStub
from echo.v1.echo_pb2 import EchoReply, EchoRequest, RepeatRequest, SlowRequest

from meshtrio import plugin
from meshtrio.client.channel import connect_to


class Caller(EchoServiceServicer):
    def __init__(self, nursery):
        self.nursery = nursery
        self.open = {}

    async def keep(self, name, address, *, task_status):
        with trio.CancelScope() as scope:
            async with connect_to(address) as channel:
                self.open[name] = channel.stub(EchoServiceStub), scope
                task_status.started()
                await trio.sleep_forever()

    async def Echo(self, message):
        word, name, *rest = message.message.split()
        try:
            outcome = await getattr(self, f"do_{word}")(name, *rest)
        except purerpc.RpcFailedError as exc:
            outcome = exc.status.status_code.name
        return EchoReply(message=outcome or "ok")

    async def do_open(self, name, address):
        await self.nursery.start(self.keep, name, address)

    async def do_close(self, name):
        self.open.pop(name)[1].cancel()

    async def do_call(self, name, text):
        await self.open[name][0].Echo(EchoRequest(message=text))

    async def do_cut(self, name):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.open[name][0].Slow, SlowRequest(seconds=60))
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()

    async def do_repeat(self, name, count):
        request = RepeatRequest(message="x", count=int(count))
        async for _ in self.open[name][0].Repeat(request):
            pass

    async def do_chat(self, name, *texts):
        async with self.open[name][0].Chat() as call:
            for text in texts:
                await call.send_message(EchoRequest(message=text))
                await call.receive_message()
            await call.close()
            assert await call.receive_message() is None


async def main():
    async with trio.open_nursery() as nursery:
        await plugin.serve(Caller(nursery))
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
