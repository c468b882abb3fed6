"""Imports all that a plugin of a mesh uses, before it is a plugin: in templates, which fork.

`meshtrio.plugin` imports some of it only when it serves, or only in a mesh, since each import
delays the start of a program. A template imports once for all starts. For the same reason it makes
a server, as each plugin does: message classes, signatures of handlers and the like are made when
they are first used, and kept.
"""

from collections.abc import Mapping

import google.protobuf.internal.builder  # noqa: F401  for generated modules

import meshtrio.plugin
import meshtrio.rpc.protobuf_descriptors
import meshtrio.stubs
import meshtrio.supervisor.process.cleanup.mesh_exit
import meshtrio.telemetry.logs.formatters  # noqa: F401
from meshtrio.messages import health
from meshtrio.rpc.server import Server
from meshtrio.services.health import HealthServicer
from meshtrio.services.standard import add_standard_services


def _make_server() -> None:
    servicer = HealthServicer()
    add_standard_services(Server(servicer), servicer)
    health.HealthCheckRequest().SerializeToString()
    health.HealthCheckResponse().SerializeToString()


_make_server()
issubclass(dict, Mapping)  # trio asks; the first answer takes a walk through all mappings' classes.
