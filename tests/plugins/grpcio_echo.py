"""The echo service on grpcio, without meshtrio, that takes SIGTERM in the way it is told to."""

import os
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc

EXAMPLES = Path(__file__).parents[2] / "examples"
sys.path[:0] = [str(EXAMPLES / "grpcio-plugin"), str(EXAMPLES / "echo-plugin")]
from echo.v1 import echo_pb2 as pb
from grpcio_plugin import handler, reply


def echo(request, context):
    if request.message == "crash":
        print("about to crash", file=sys.stderr, flush=True)
        os._exit(9)
    return reply(request.message)


def slow(request, context):
    print("slow begins", flush=True)
    threading.Event().wait(request.seconds)
    return reply(request.message)


def main(manner):
    methods = {
        "Echo": handler("unary_unary", echo, pb.EchoRequest),
        "Slow": handler("unary_unary", slow, pb.SlowRequest),
    }
    server = grpc.server(ThreadPoolExecutor(8))
    generic = grpc.method_handlers_generic_handler("echo.v1.EchoService", methods)
    server.add_generic_rpc_handlers([generic])
    stopping = threading.Event()
    signal.signal(
        signal.SIGTERM,
        {
            "ends": lambda *_: stopping.set(),
            "ignores": signal.SIG_IGN,
            "dies": signal.SIG_DFL,
        }[manner],
    )
    server.add_insecure_port(f"unix:{os.environ['PLUGIN_SOCKET']}")
    server.start()
    while not stopping.wait(0.02):
        pass
    # At once, whatever is under way: a program that was not written with care.
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1])
