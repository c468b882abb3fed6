"""Imports all that a plugin of a mesh uses, before it is a plugin: in templates, which fork.

`meshtrio.plugin` imports some of it only when it serves, or only in a mesh, since each import
delays the start of a program. A template imports once for all starts.
"""

import google.protobuf.internal.builder  # noqa: F401  for generated modules

import meshtrio.messages
import meshtrio.plugin
import meshtrio.rpc.protobuf_descriptors
import meshtrio.stubs
import meshtrio.supervisor.process.cleanup.mesh_exit
import meshtrio.telemetry.logs.formatters  # noqa: F401
