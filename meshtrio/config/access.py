"""Access control of the mesh's own services and of the gateway to the plugins."""

from __future__ import annotations

from enum import Enum

import attrs
from attrs.validators import deep_iterable

from meshtrio.config.validators import (
    at_least,
    check_max_busy_poll,
    check_service_name,
    is_positive,
    parsed_by,
    require,
    to_strings,
)
from meshtrio.util.address import Address
from meshtrio.util.tls_config import ServerTlsConfig

_SUBJECT_PREFIXES = ("CN=", "O=", "OU=", "DNS:", "URI:", "IP Address:", "email:")
_is_tcp = require(lambda text: Address.parse(text).host, "must be tcp://host:port, not {!r}")
_is_subject = require(
    lambda subject: subject == "*" or subject.startswith(_SUBJECT_PREFIXES),
    "{!r} is not '*' nor does it begin with one of "
    f"{', '.join(_SUBJECT_PREFIXES)}, as in 'CN=ops'",
)
_is_service_pattern = parsed_by(lambda name: check_service_name(name.removesuffix("*") or "any"))


@attrs.frozen
class AccessRule:
    """Additional principals. The mesh's own user and root always have access on the mesh socket."""

    users: tuple[str, ...] = attrs.field(default=(), converter=to_strings)
    """Names or numbers of users with access on the mesh socket."""
    groups: tuple[str, ...] = attrs.field(default=(), converter=to_strings)
    """Names or numbers of groups with access on the mesh socket: a process must be in one of them
    when it connects."""
    subjects: tuple[str, ...] = attrs.field(
        default=(), converter=to_strings, validator=deep_iterable(_is_subject)
    )
    """Subjects of client certificates with access on the gateway's TCP port: `CN=ops`, `O=…`,
    `OU=…`, `DNS:host`, `URI:spiffe://…`. A `*` at the end matches any rest, alone any
    certificate."""


@attrs.frozen
class RegistryAccessRule(AccessRule):
    """Additional principals of the registry, and the services that they may register."""

    services: tuple[str, ...] = attrs.field(
        default=(), converter=to_strings, validator=deep_iterable(_is_service_pattern)
    )
    """Services that these users may register endpoints of although a plugin or the config has the
    name, or another user serves it. A registrar of an endpoint receives a part of the service's
    calls, with the credentials in them. A `*` at the end matches any rest. Names that
    no other user has may be registered without being listed here."""

    def includes_service(self, service: str) -> bool:
        """Return whether `services` includes a service."""
        return any(
            service.startswith(name[:-1]) if name.endswith("*") else service == name
            for name in self.services
        )


@attrs.frozen
class Access:
    """Access rules of the parts of the mesh's API."""

    control: AccessRule = attrs.field(factory=AccessRule)
    """Access to meshtrio.v1.Control: seeing all plugins with their output and history, the methods,
    peers and statuses of their calls, and the config with secrets masked; stopping, restarting and
    scaling any of them; setting log levels; and reloading the file that the mesh was started from.
    Reloading another file, which amounts to running any program as the mesh's user, is restricted
    to the mesh's own user and root, as are seeing the environment of plugins and running a process
    in the place of an instance."""
    registry: RegistryAccessRule = attrs.field(factory=RegistryAccessRule)
    """Access to meshtrio.v1.Registry: seeing all services with the addresses of their endpoints and
    how these ended, the last lines of stderr included; and, for users of this machine, serving
    names that no plugin, no table of the config and no other user has."""
    gateway: AccessRule = attrs.field(factory=AccessRule)
    """Access to all plugins, by the mesh socket or the TCP port. Health and reflection are
    available to principals with access to any of the three."""

    @property
    def rules(self) -> dict[str, AccessRule]:
        """The rules by their keys."""
        return {"control": self.control, "registry": self.registry, "gateway": self.gateway}


class GatewaySecurity(Enum):
    """How clients of the gateway's TCP port are authenticated."""

    MUTUAL_TLS = "mutual-tls"
    PLAINTEXT = "plaintext"
    """No authentication or encryption: any host that reaches the port may call every plugin."""


@attrs.frozen
class GatewayConfig:
    """The TCP port on which the mesh serves what it serves on its socket.

    Cannot be changed by a reload.
    """

    listen: str | None = attrs.field(default=None, validator=_is_tcp)
    """Address of the port, `tcp://host:port`; there is none by default."""
    tls: ServerTlsConfig | None = None
    """Certificate and key of the server, and the `client_ca` that signs clients' certificates."""
    security: GatewaySecurity = GatewaySecurity.MUTUAL_TLS
    """How clients are authenticated: by certificate, or not at all. In plaintext any host that
    reaches the port may call every plugin and observe its calls, but not use control or
    registry."""

    max_connections: int = attrs.field(default=4096, validator=at_least(1))
    """Maximum connections to the mesh socket, and as many to the TCP port. Both are limited to 0.4
    of the mesh's file descriptors; `meshtrio serve` raises its soft limit (`ulimit -n`) to the hard
    one. The mesh socket accepts 16 more, from processes of the mesh's own user or root with fewer
    than 4, so that `meshtrio ps` and `stop` work when all others are in use."""
    max_connections_per_peer: int = attrs.field(default=1024, validator=at_least(1))
    """Maximum connections of one peer: on the mesh socket a process, or a user if that is neither
    the mesh's nor root; on the TCP port a client certificate, in plaintext a host. Further ones are
    rejected with GOAWAY and the reason."""
    max_header_list_size: int = attrs.field(default=32 * 1024, validator=at_least(1024))
    """Size in bytes of a request's header list, metadata included, as RFC 9113 §6.5.2 counts it. A
    call with a larger one fails with RESOURCE_EXHAUSTED."""
    reset_burst: int = attrs.field(default=1000, validator=at_least(1))
    """Number of calls that a peer may open and cancel at once, on all of its connections, before
    the connection is closed with ENHANCE_YOUR_CALM and new ones of the peer are refused for a
    second, and longer each time. Calls that reach their deadline, live for 10 ms or have been
    answered in part do not count; a call with a deadline that is cancelled sooner counts as a
    tenth."""
    reset_rate: float = attrs.field(default=200.0, validator=at_least(0))
    """Sustained rate, per second, at which `reset_burst` refills."""
    max_connection_age: float | None = attrs.field(default=None, validator=is_positive)
    """Seconds after which a connection to the TCP port is drained, so that clients connect again,
    and find other meshes behind a name; it varies by up to a tenth either way. Calls in progress
    may finish, and none is lost. By default there is no maximum."""
    max_connection_age_grace: float | None = attrs.field(default=None, validator=at_least(0))
    """Seconds from `max_connection_age` on after which calls still in progress end with
    UNAVAILABLE. By default there is no limit."""
    drain_timeout: float = attrs.field(default=5.0, validator=at_least(0))
    """Seconds for calls through the gateway to end when the mesh has stopped its plugins, which are
    calls to services that the mesh does not run. Calls that have not started by then are refused,
    so that clients may retry them."""
    max_memory_per_peer: int = attrs.field(default=256 * 1024 * 1024, validator=at_least(1))
    """Maximum bytes of requests and replies buffered for one peer, and half of that for each of its
    connections. Calls beyond it fail with RESOURCE_EXHAUSTED."""
    max_memory: int = attrs.field(default=512 * 1024 * 1024, validator=at_least(1))
    """Maximum bytes buffered for all peers. Beyond it, calls fail of peers that use more than a
    sixteenth of it."""
    max_busy_poll: float | None = attrs.field(default=None, validator=check_max_busy_poll)
    """Maximum seconds for which the mesh's connections, those to plugins included, poll their
    sockets before the mesh sleeps, from 0 for never to 0.01. By default 0.0005; MESHTRIO_BUSY_POLL
    overrides it."""

    def validate(self, access: Access) -> list[str]:
        """Return errors in the combination of fields, as "key: reason"."""
        named = [name for name, rule in access.rules.items() if rule.subjects]
        encrypted = self.listen is not None and self.security is GatewaySecurity.MUTUAL_TLS
        if self.listen is None and (self.tls or self.security is GatewaySecurity.PLAINTEXT):
            return ["gateway: tls and security require a TCP port: set listen, too"]
        if self.listen is None and self.max_connection_age is not None:
            return ["gateway: max_connection_age: is for the TCP port only; set listen, too"]
        if self.max_connection_age is None and self.max_connection_age_grace is not None:
            return ["gateway: max_connection_age_grace: requires max_connection_age"]
        if encrypted and (self.tls is None or self.tls.client_ca is None):
            need = "mutual TLS requires certificate, key and client_ca"
            other = 'security = "plaintext" admits any host that reaches the port'
            return [f"gateway: tls: {need}; {other}"]
        if self.security is GatewaySecurity.PLAINTEXT and self.tls is not None:
            return ['gateway: tls: is not used with security = "plaintext"; leave one of them out']
        if encrypted and not named:
            hint = "set subjects in [mesh.access.gateway], '*' for every certificate"
            return [f"gateway: no client could use the port; {hint} that client_ca has signed"]
        if named and not encrypted:
            return [
                f"access.{name}: subjects: only clients of a gateway with mutual TLS have them"
                for name in named
            ]
        return []
