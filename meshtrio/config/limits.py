"""Limits on the use of the mesh's own services by one user."""

from __future__ import annotations

import attrs
from attrs.validators import ge


@attrs.frozen
class MeshLimits:
    """Limits on the use of the mesh's own services by one user.

    A user is a user of this machine; on the TCP port a client certificate, or a host without one.
    The limits apply to the mesh's own user and root too. A call beyond a limit fails with
    RESOURCE_EXHAUSTED and the name of the limit.
    """

    max_calls_per_user: int = attrs.field(default=4096, validator=ge(1))
    """Maximum number of concurrent calls of one user to one service of the mesh itself, such as
    `meshtrio.v1.Registry`. Most of them are watches: a client program has one for each service that
    it calls."""
    max_registrations_per_user: int = attrs.field(default=1024, validator=ge(1))
    """Maximum number of endpoints that one user has registered, of 256 bytes each on average.
    Registrations are also limited in rate: to twice this number at once, and 10 per second after
    that."""
    max_endpoints_per_service: int = attrs.field(default=1024, validator=ge(1))
    """Maximum number of endpoints of one service, in addition to the instances of a plugin."""
