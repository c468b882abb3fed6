"""Limits on what one user may take of the mesh's own services."""

from __future__ import annotations

import attrs
from attrs.validators import ge


@attrs.frozen
class MeshLimits:
    """Limits on what one user may take of the mesh's own services.

    A user is a user of this machine, on the TCP port a client certificate, or a host that shows
    none. The mesh's own user and root are subject to them as well. What is over a limit fails with
    RESOURCE_EXHAUSTED and the name of the limit.
    """

    max_calls_per_user: int = attrs.field(default=4096, validator=ge(1))
    """Calls that one user may have open at a time to one service of the mesh itself, as
    `meshtrio.v1.Registry`: watches above all, of which a client program has one for each service
    that it calls."""
    max_registrations_per_user: int = attrs.field(default=1024, validator=ge(1))
    """Endpoints that one user may have registered at a time, with 256 bytes each on average. Twice
    as many may be registered at once, and 10 a second after that."""
    max_endpoints_per_service: int = attrs.field(default=1024, validator=ge(1))
    """Endpoints that one service may have in addition to the instances of a plugin."""
