"""Fails as its caller's metadata says, on meshtrio or, with --grpcio, on stock grpcio.

The first `fail-times` calls with one `key` fail with UNAVAILABLE, and with `pushback`, if there is
one, as grpc-retry-pushback-ms. Then the reply tells what the call said of its previous attempts.
"""

import os
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "echo-plugin"))
from echo.v1.echo_grpc import EchoServiceServicer
from echo.v1.echo_pb2 import EchoReply, EchoRequest

calls = Counter()


def fails(metadata):
    """Return whether this call fails, and the trailers with its pushback."""
    calls[metadata["key"]] += 1
    pushback = metadata.get("pushback")
    trailers = (("grpc-retry-pushback-ms", pushback),) if pushback else ()
    return calls[metadata["key"]] <= int(metadata.get("fail-times", "0")), trailers


def previous(metadata):
    return EchoReply(message=metadata.get("grpc-previous-rpc-attempts", ""))


class Flaky(EchoServiceServicer):
    async def Echo(self, message, request):
        import purerpc

        metadata = dict(request.custom_metadata)
        failing, request.trailing_metadata = fails(metadata)
        if failing:
            raise purerpc.UnavailableError("not now")
        return previous(metadata)


def with_grpcio():
    import grpc

    def echo(_, context):
        metadata = dict(context.invocation_metadata())
        failing, trailers = fails(metadata)
        context.set_trailing_metadata(trailers)
        if failing:
            context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
        return previous(metadata)

    method = grpc.unary_unary_rpc_method_handler(
        echo, EchoRequest.FromString, EchoReply.SerializeToString
    )
    server = grpc.server(ThreadPoolExecutor(4))
    handler = grpc.method_handlers_generic_handler("echo.v1.EchoService", {"Echo": method})
    server.add_generic_rpc_handlers((handler,))
    server.add_insecure_port(f"unix:{os.environ['PLUGIN_SOCKET']}")
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    if "--grpcio" in sys.argv:
        with_grpcio()
    else:
        from meshtrio import plugin

        plugin.run(Flaky())
