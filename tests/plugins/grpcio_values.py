"""A plugin on grpcio, bytes in and out, without a line of meshtrio: t.T/Fail fails with the text of
the request, and t.T/Metadata gives metadata back."""

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc


def fail(request, context):
    context.set_trailing_metadata((("x-spaces", " v "),))
    context.abort(grpc.StatusCode.NOT_FOUND, request.decode())


def metadata(request, context):
    found = [pair for pair in context.invocation_metadata() if pair[0].startswith("x-")]
    context.send_initial_metadata(found)
    context.set_trailing_metadata(found)
    return request


METHODS = {
    "Fail": grpc.unary_unary_rpc_method_handler(fail),
    "Metadata": grpc.unary_unary_rpc_method_handler(metadata),
}

if __name__ == "__main__":
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    server = grpc.server(ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("t.T", METHODS)])
    server.add_insecure_port(f"unix:{os.environ['PLUGIN_SOCKET']}")
    server.start()
    stopping.wait()
    server.stop(1).wait()
