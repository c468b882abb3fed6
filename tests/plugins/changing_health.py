"""Serves health only: SERVING until the file that its argument names is there, then NOT_SERVING."""

import os
import sys

from raw_grpcio_server import serve

SERVING, NOT_SERVING = b"\x08\x01", b"\x08\x02"


def check(requests):
    for _ in requests:
        yield NOT_SERVING if os.path.exists(sys.argv[1]) else SERVING


if __name__ == "__main__":
    serve({"/grpc.health.v1.Health/Check": check})
