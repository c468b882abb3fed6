"""The echo service on grpcio, without a line of meshtrio: any language's gRPC server will do.

What makes it a plugin is that it binds the socket named by PLUGIN_SOCKET. It offers no health
service, so it counts as ready once it answers at all, and stops at SIGTERM like any server.
"""

import os
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc

sys.path.insert(0, str(Path(__file__).parent.parent / "echo-plugin"))  # for the generated messages
from echo.v1 import echo_pb2 as pb


def reply(message):
    instance = int(os.environ.get("PLUGIN_INSTANCE", "0"))
    return pb.EchoReply(message=message, instance=instance, pid=os.getpid())


def echo(request, context):
    return reply(request.message)


def slow(request, context):
    done = threading.Event()
    context.add_callback(done.set)
    if done.wait(request.seconds):
        print("cancelled", flush=True)
    return reply(request.message)


def repeat(request, context):
    for _ in range(request.count):
        yield reply(request.message)


def join(requests, context):
    return reply(" ".join(request.message for request in requests))


def chat(requests, context):
    for request in requests:
        yield reply(request.message)


def handler(kind, function, request_type):
    return getattr(grpc, f"{kind}_rpc_method_handler")(
        function, request_type.FromString, pb.EchoReply.SerializeToString
    )


def main():
    methods = {
        "Echo": handler("unary_unary", echo, pb.EchoRequest),
        "Slow": handler("unary_unary", slow, pb.SlowRequest),
        "Repeat": handler("unary_stream", repeat, pb.RepeatRequest),
        "Join": handler("stream_unary", join, pb.EchoRequest),
        "Chat": handler("stream_stream", chat, pb.EchoRequest),
    }
    server = grpc.server(ThreadPoolExecutor(8))
    generic = grpc.method_handlers_generic_handler("echo.v1.EchoService", methods)
    server.add_generic_rpc_handlers([generic])
    server.add_insecure_port(f"unix:{os.environ['PLUGIN_SOCKET']}")
    server.start()
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    while not stopping.is_set():
        time.sleep(0.05)
    server.stop(grace=1).wait()


if __name__ == "__main__":
    main()
