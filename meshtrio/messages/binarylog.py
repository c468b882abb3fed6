"""Messages of grpc/binlog/v1/binarylog.proto; made by protos/generate.py."""

from meshtrio.messages._pool import declare

declare(globals(), "duration_pb2", "timestamp_pb2")
