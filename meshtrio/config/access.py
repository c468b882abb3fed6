"""Who may use the mesh's own services, and the gateway to the plugins."""

from __future__ import annotations

from enum import Enum

import attrs
from attrs.validators import ge

from meshtrio.config.service_names import check_service_name
from meshtrio.util.address import Address
from meshtrio.util.tls_config import ServerTlsConfig

_SUBJECT_PREFIXES = ("CN=", "O=", "OU=", "DNS:", "URI:", "IP Address:", "email:")


def _check_subjects(_: object, __: object, value: tuple[str, ...]) -> None:
    for subject in value:
        if subject != "*" and not subject.startswith(_SUBJECT_PREFIXES):
            known = ", ".join(_SUBJECT_PREFIXES)
            raise ValueError(
                f"{subject!r} is not '*' nor does it begin with one of {known}, as in 'CN=ops'"
            )


def _check_listen(_: object, __: object, value: str | None) -> None:
    if value is not None and not Address.parse(value).host:
        raise ValueError(f"must be tcp://host:port, not {value!r}")


@attrs.frozen
class AccessRule:
    """Additional principals. The mesh's own user and root always have access on the mesh socket."""

    users: tuple[str, ...] = attrs.field(default=(), converter=tuple)
    """Names or numbers, for the mesh socket."""
    groups: tuple[str, ...] = attrs.field(default=(), converter=tuple)
    """Names or numbers, for the mesh socket: groups that a process is in when it connects."""
    subjects: tuple[str, ...] = attrs.field(default=(), converter=tuple, validator=_check_subjects)
    """For the gateway's TCP port, of client certificates: `CN=ops`, `O=…`, `OU=…`, `DNS:host`,
    `URI:spiffe://…`. A `*` at the end stands for anything, alone for every certificate."""


def _check_services(_: object, __: object, value: tuple[str, ...]) -> None:
    for name in value:
        check_service_name(name.removesuffix("*") or "any")


@attrs.frozen
class RegistryAccessRule(AccessRule):
    """Who may use the registry, in addition to the mesh's own user and root."""

    services: tuple[str, ...] = attrs.field(default=(), converter=tuple, validator=_check_services)
    """Services that these users may register endpoints of although a plugin or the config has the
    name, or another user serves it. Whoever registers an endpoint of a service is sent a part of
    its calls, with the credentials in them. A `*` at the end stands for anything. Names that
    no other user has may be registered without being listed here."""

    def includes_service(self, service: str) -> bool:
        """Return whether `services` has a service."""
        return any(
            service.startswith(name[:-1]) if name.endswith("*") else service == name
            for name in self.services
        )


@attrs.frozen
class Access:
    """A rule for each part of what the mesh serves."""

    control: AccessRule = attrs.field(factory=AccessRule)
    """meshtrio.v1.Control. Amounts to: seeing all plugins with their output and the methods, peers
    and statuses of their calls, stopping, restarting and scaling any of them, setting log levels,
    and reloading the file that the mesh was started from. Reloading another file, which is to run
    any program as the mesh's user, is for the mesh's own user and root only."""
    registry: RegistryAccessRule = attrs.field(factory=RegistryAccessRule)
    """meshtrio.v1.Registry. Amounts to: seeing all services with the addresses of their endpoints
    and how these ended, the last lines of stderr included, and, for users of this machine,
    serving names that no plugin, no table of the config and no other user has."""
    gateway: AccessRule = attrs.field(factory=AccessRule)
    """Amounts to: any call to any plugin, by the mesh socket or the TCP port. Health and
    reflection are for those who may use any of the three."""

    @property
    def rules(self) -> dict[str, AccessRule]:
        return {"control": self.control, "registry": self.registry, "gateway": self.gateway}


class GatewaySecurity(Enum):
    """What is asked of those who connect to the gateway's TCP port."""

    MUTUAL_TLS = "mutual-tls"
    PLAINTEXT = "plaintext"
    """Nothing: whoever reaches the port may call every plugin, and listen in."""


@attrs.frozen
class GatewayConfig:
    """The TCP port on which the mesh serves what it serves on its socket.

    Cannot be changed by a reload.
    """

    listen: str | None = attrs.field(default=None, validator=_check_listen)
    """`tcp://host:port`; none by default."""
    tls: ServerTlsConfig | None = None
    """PEM files; `client_ca` has to have signed the certificates of clients."""
    security: GatewaySecurity = GatewaySecurity.MUTUAL_TLS
    """What is asked of those who connect: a certificate, or nothing. In plaintext whoever reaches
    the port may call every plugin and listen in, and may use neither control nor registry."""

    max_connections: int = attrs.field(default=4096, validator=ge(1))
    """Connections to the mesh socket, and as many to the TCP port. Both are limited to 0.4 of the
    file descriptors that the mesh may have: `meshtrio serve` raises its soft limit (`ulimit -n`)
    to the hard one. The mesh socket accepts 16 more, of processes of the mesh's own user or of root
    that have less than 4, so that `meshtrio ps` and `stop` work when all others are in use."""
    max_connections_per_peer: int = attrs.field(default=1024, validator=ge(1))
    """Connections of one peer: on the mesh socket a process, or a user if that is neither the
    mesh's nor root; on the TCP port a client certificate, in plaintext a host. Further ones are
    rejected with GOAWAY and the reason."""
    max_header_list_size: int = attrs.field(default=32 * 1024, validator=ge(1024))
    """Size in bytes of a request's header list, metadata included, as RFC 9113 §6.5.2 counts it. A
    call with a larger one fails with RESOURCE_EXHAUSTED."""
    reset_burst: int = attrs.field(default=1000, validator=ge(1))
    """Number of calls that a peer may open and cancel at once, on all of its connections, before
    the connection is closed with ENHANCE_YOUR_CALM and new ones of the peer are refused for a
    second, and longer each time. Calls that reach their deadline, live for 10 ms or have been
    answered in part do not count; a call with a deadline that is cancelled sooner counts as a
    tenth."""
    reset_rate: float = attrs.field(default=200.0, validator=ge(0))
    """Sustained rate, per second, at which `reset_burst` refills."""
    drain_timeout: float = attrs.field(default=5.0, validator=ge(0))
    """Seconds that calls through the gateway have to end once the mesh has stopped its plugins:
    those to services that the mesh does not run. Calls that have not begun by then are refused, for
    their clients to make again."""
    max_memory_per_peer: int = attrs.field(default=256 * 1024 * 1024, validator=ge(1))
    """Bytes of requests and replies that the mesh holds for one peer, and half of that for each of
    its connections. Calls beyond it fail with RESOURCE_EXHAUSTED."""
    max_memory: int = attrs.field(default=512 * 1024 * 1024, validator=ge(1))
    """Bytes that it holds for all peers. While it holds more, calls of those peers fail for which
    it holds more than a sixteenth of it."""

    def validate(self, access: Access) -> list[str]:
        """What does not go together, as "key: reason"."""
        named = [name for name, rule in access.rules.items() if rule.subjects]
        encrypted = self.listen is not None and self.security is GatewaySecurity.MUTUAL_TLS
        if self.listen is None and (self.tls or self.security is GatewaySecurity.PLAINTEXT):
            return ["gateway: tls and security are for its TCP port; say which with listen"]
        if encrypted and (self.tls is None or self.tls.client_ca is None):
            need = "certificate, key and client_ca are needed to ask clients for certificates"
            other = 'security = "plaintext" lets in whoever reaches the port'
            return [f"gateway: tls: {need}; {other}"]
        if self.security is GatewaySecurity.PLAINTEXT and self.tls is not None:
            return ['gateway: tls: is not used with security = "plaintext"; leave one of them out']
        if encrypted and not named:
            hint = "say who may with subjects in [mesh.access.gateway], '*' for every certificate"
            return [f"gateway: nobody could use the port; {hint} that client_ca has signed"]
        if named and not encrypted:
            return [
                f"access.{name}: subjects: only clients of a gateway with mutual TLS have one"
                for name in named
            ]
        return []
