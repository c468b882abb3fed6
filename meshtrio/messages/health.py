"""Messages of grpc/health/v1/health.proto; made by protos/generate.py."""

from meshtrio.messages._pool import declare

declare(globals())
