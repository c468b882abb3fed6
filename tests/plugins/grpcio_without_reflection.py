"""A grpcio server that describes nothing. Its methods reply with the bytes that they get."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import grpc
from google.protobuf.wrappers_pb2 import BytesValue

echo = grpc.unary_unary_rpc_method_handler(lambda request, _: request)
give = grpc.unary_unary_rpc_method_handler(lambda raw, _: BytesValue.FromString(raw).value)
services = {"odd.v1.Odd": {"Echo": echo, "Give": give}, "odd.v1.Old": {"Echo": echo}}

server = grpc.server(ThreadPoolExecutor(2))
server.add_generic_rpc_handlers(
    [grpc.method_handlers_generic_handler(name, methods) for name, methods in services.items()]
)
server.add_insecure_port(f"unix:{os.environ['PLUGIN_SOCKET']}")
server.start()
signal.sigwait({signal.SIGTERM})
server.stop(None).wait()
