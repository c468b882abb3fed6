"""Messages of grpc/channelz/v1/channelz.proto; made by protos/generate.py."""

from meshtrio.messages._pool import declare

declare(globals(), "any_pb2", "timestamp_pb2", "wrappers_pb2")
