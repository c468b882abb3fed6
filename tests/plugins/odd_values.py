"""Serves odd.v1.Odd, whose generated code is in the current folder."""

import sys

sys.path.insert(0, "")
from odd.v1 import odd_grpc, odd_pb2

from meshtrio import plugin


class Odd(odd_grpc.OddServicer):
    async def Echo(self, message):
        return message

    rpc__class__ = Echo

    async def Give(self, message):
        return odd_pb2.Value.FromString(message.data)

    async def GiveEach(self, messages):
        async for message in messages:
            yield odd_pb2.Value.FromString(message.data)


if __name__ == "__main__":
    plugin.run(Odd())
