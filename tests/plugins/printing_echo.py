"""An echo plugin that writes down what it is told, in Join so often, and fails in Repeat."""

import sys
from pathlib import Path

import purerpc
import trio
from google.protobuf import any_pb2

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "echo-plugin"))
from echo.v1.echo_grpc import EchoServiceServicer
from echo.v1.echo_pb2 import EchoReply, EchoRequest

from meshtrio import plugin


def make_status_details():
    """A google.rpc.Status with two details: one of a type that callers learn, and another."""
    known, unknown = any_pb2.Any(), any_pb2.Any(type_url="example.com/no.Such", value=b"123")
    known.Pack(EchoRequest(message="a detail"))
    parts = [each.SerializeToString() for each in (known, unknown)]
    return b"\x08\x05" + b"".join(b"\x1a" + bytes([len(part)]) + part for part in parts)


class PrintingEcho(EchoServiceServicer):
    async def Echo(self, message):
        print(f"out {message.message}", flush=True)
        print(f"err {message.message}", file=sys.stderr, flush=True)
        return EchoReply(message=message.message)

    async def Slow(self, message):
        print("slow begins", flush=True)
        await trio.sleep(message.seconds)
        return EchoReply(message=message.message)

    async def Repeat(self, message, request):
        for _ in range(message.count):
            yield EchoReply(message=message.message)
        request.status_details = make_status_details()
        raise purerpc.NotFoundError("no more of them")

    async def Join(self, messages):
        async for message in messages:
            count, _, text = message.message.partition(" ")
            sys.stdout.write(f"{text}\n" * int(count))
            sys.stdout.flush()
        return EchoReply(message="written")

    async def Chat(self, messages):
        async for message in messages:
            yield EchoReply(message=message.message)


if __name__ == "__main__":
    plugin.run(PrintingEcho())
