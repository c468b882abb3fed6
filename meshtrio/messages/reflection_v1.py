"""Messages of grpc/reflection/v1/reflection.proto; made by protos/generate.py."""

from meshtrio.messages._pool import declare

declare(globals())
