"""A stock grpcio server without a health service: what is asked of it is UNIMPLEMENTED."""

import os
from concurrent.futures import ThreadPoolExecutor

import grpc

server = grpc.server(ThreadPoolExecutor(1))
server.add_insecure_port(f"unix:{os.environ['PLUGIN_SOCKET']}")
server.start()
server.wait_for_termination()
