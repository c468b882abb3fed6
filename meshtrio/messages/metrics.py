"""Messages of meshtrio/v1/metrics.proto; made by protos/generate.py."""

from meshtrio.messages._pool import declare

declare(globals())
