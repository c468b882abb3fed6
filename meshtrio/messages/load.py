"""Messages of meshtrio/v1/load.proto; made by protos/generate.py."""

from meshtrio.messages._pool import declare

declare(globals())
