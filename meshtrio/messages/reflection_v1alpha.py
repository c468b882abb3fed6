"""Messages of grpc/reflection/v1alpha/reflection.proto; made by protos/generate.py."""

from meshtrio.messages._pool import declare

declare(globals())
