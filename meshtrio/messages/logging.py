"""Messages of meshtrio/v1/logging.proto; made by protos/generate.py."""

from meshtrio.messages._pool import declare

declare(globals())
