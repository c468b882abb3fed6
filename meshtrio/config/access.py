"""Who may use the mesh's own services, and the gateway to the plugins."""

from __future__ import annotations

from enum import Enum

import attrs
from attrs.validators import ge

from meshtrio.address import Address, ServerTlsFiles

_SUBJECT_KINDS = ("CN=", "O=", "OU=", "DNS:", "URI:", "IP Address:", "email:")


def _check_subjects(_: object, __: object, value: tuple[str, ...]) -> None:
    for subject in value:
        if subject != "*" and not subject.startswith(_SUBJECT_KINDS):
            known = ", ".join(_SUBJECT_KINDS)
            raise ValueError(
                f"{subject!r} is not '*' nor does it begin with one of {known}, as in 'CN=ops'"
            )


def _check_listen(_: object, __: object, value: str | None) -> None:
    if value is not None and not Address.parse(value).host:
        raise ValueError(f"must be tcp://host:port, not {value!r}")


@attrs.frozen
class AccessRule:
    """Who may, beside the mesh's own user and root, who always may on the mesh socket."""

    users: tuple[str, ...] = attrs.field(default=(), converter=tuple)
    """Names or numbers, for the mesh socket."""
    groups: tuple[str, ...] = attrs.field(default=(), converter=tuple)
    """Names or numbers, for the mesh socket: groups that a process is in when it connects."""
    subjects: tuple[str, ...] = attrs.field(default=(), converter=tuple, validator=_check_subjects)
    """For the gateway's TCP port, of client certificates: `CN=ops`, `O=…`, `OU=…`, `DNS:host`,
    `URI:spiffe://…`. A `*` at the end stands for anything, alone for every certificate."""


@attrs.frozen
class Access:
    """A rule for each part of what the mesh serves."""

    control: AccessRule = attrs.field(factory=AccessRule)
    """meshtrio.v1.Control: looking at the mesh, and telling it what to do."""
    registry: AccessRule = attrs.field(factory=AccessRule)
    """meshtrio.v1.Registry: finding services, and registering them."""
    gateway: AccessRule = attrs.field(factory=AccessRule)
    """Calls to plugins. Health and reflection are for whoever may use any of the three."""

    @property
    def rules(self) -> dict[str, AccessRule]:
        return {"control": self.control, "registry": self.registry, "gateway": self.gateway}


class Security(Enum):
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
    tls: ServerTlsFiles | None = None
    """PEM files; `client_ca` has to have signed the certificates of clients."""
    security: Security = Security.MUTUAL_TLS
    """What is asked of those who connect: a certificate, or nothing. In plaintext whoever reaches
    the port may call every plugin and listen in, and may use neither control nor registry."""

    max_connections: int = attrs.field(default=4096, validator=ge(1))
    """Connections to the mesh socket, and as many to the TCP port. Both are limited to 0.4 of the
    file descriptors that the mesh may have: `meshtrio serve` raises its soft limit (`ulimit -n`)
    towards the hard one to have enough."""
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
    max_memory_per_peer: int = attrs.field(default=256 * 1024 * 1024, validator=ge(1))
    """Bytes of requests and replies that the mesh holds for one peer, and half of that for each of
    its connections. Calls beyond it fail with RESOURCE_EXHAUSTED."""
    max_memory: int = attrs.field(default=512 * 1024 * 1024, validator=ge(1))
    """Bytes that it holds for all peers. While it holds more, calls of those peers fail for which
    it holds more than a sixteenth of it."""

    def problems(self, access: Access) -> list[str]:
        """What does not go together, as "key: reason"."""
        named = [name for name, rule in access.rules.items() if rule.subjects]
        encrypted = self.listen is not None and self.security is Security.MUTUAL_TLS
        if self.listen is None and (self.tls or self.security is Security.PLAINTEXT):
            return ["gateway: tls and security are for its TCP port; say which with listen"]
        if encrypted and (self.tls is None or self.tls.client_ca is None):
            need = "certificate, key and client_ca are needed to ask clients for certificates"
            other = 'security = "plaintext" lets in whoever reaches the port'
            return [f"gateway: tls: {need}; {other}"]
        if self.security is Security.PLAINTEXT and self.tls is not None:
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
