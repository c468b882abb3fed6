"""A plugin on grpcio in the middle of a chain, without a line of meshtrio: it passes "plugin.b x"
on to plugin.b through the mesh's socket, and gives any other message back.

Its calls are traced by OpenTelemetry's instrumentation of grpcio, and its spans sent by the stock
exporter; where to is in the OTEL_* variables that the mesh sets, which the SDK reads by itself.
"""

import os
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.grpc import GrpcInstrumentorClient, GrpcInstrumentorServer
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples" / "echo-plugin"))
from echo.v1 import echo_pb2 as pb


def passing_on(mesh):
    behind = mesh.unary_unary(
        "/echo.v1.EchoService/Echo", pb.EchoRequest.SerializeToString, pb.EchoReply.FromString
    )

    def echo(request, context):
        first, _, rest = request.message.partition(" ")
        if not first.startswith("plugin."):
            return pb.EchoReply(message=request.message)
        try:
            return behind(pb.EchoRequest(message=rest), metadata=(("x-mesh-target", first),))
        except grpc.RpcError as error:
            context.abort(error.code(), error.details())

    return grpc.unary_unary_rpc_method_handler(
        echo, pb.EchoRequest.FromString, pb.EchoReply.SerializeToString
    )


def main():
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    # After the exporter has its channel, whose calls are not to be traced.
    GrpcInstrumentorClient().instrument()
    GrpcInstrumentorServer().instrument()
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    with grpc.insecure_channel(f"unix:{os.environ['MESH_SOCKET']}") as mesh:
        server = grpc.server(ThreadPoolExecutor(4))
        methods = {"Echo": passing_on(mesh)}
        generic = grpc.method_handlers_generic_handler("echo.v1.EchoService", methods)
        server.add_generic_rpc_handlers([generic])
        server.add_insecure_port(f"unix:{os.environ['PLUGIN_SOCKET']}")
        server.start()
        stopping.wait()
        server.stop(grace=1).wait()
    provider.shutdown()


main()
