"""Access control for calls on the mesh socket and the gateway's port: the [mesh.access] tables."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from urllib.parse import quote

import trio

from meshtrio.config import Access, AccessRule
from meshtrio.contract import FORWARDED_METADATA_KEY
from meshtrio.grpc.headers import RequestHeaders
from meshtrio.transport.peer import Peer
from meshtrio.util.token_bucket import TokenBucket
from meshtrio.util.users import resolve_ids, resolve_uid

_log = logging.getLogger("meshtrio.access")

CONTROL, REGISTRY, GATEWAY = "control", "registry", "gateway"
_OWN_SERVICES = {"meshtrio.v1.Control": CONTROL, "meshtrio.v1.Registry": REGISTRY}
_CONTROL_PATH_PREFIXES = (
    *(f"/meshtrio.v1.{name}/" for name in ("Load", "Logging", "Metrics", "Tap")),
    "/grpc.channelz.",
)
"""Services that show calls of all clients, or change a process, of plugins as of the mesh."""
_PUBLIC_SERVICE_PREFIXES = ("grpc.health.", "grpc.reflection.")
_MAX_LOGS_PER_SECOND = 10.0
_MAX_NAME_LENGTH = 200


class AccessControl:
    """Checks each call against the current rules of the config.

    The mesh's own user and root always have access on the mesh socket.
    """

    def __init__(self, access: Callable[[], Access], *, allow_anonymous: bool = False) -> None:
        """Resolve the users and groups of the rules; raises KeyError if there is no such one.

        `access` returns the current rules. `allow_anonymous`: peers without an identity may call
        plugins, as on a plaintext port.
        """
        self._access = access
        self._allow_anonymous = allow_anonymous
        self._own_uids = frozenset({0, os.geteuid()})
        self._log_rate_limit = TokenBucket(_MAX_LOGS_PER_SECOND, _MAX_LOGS_PER_SECOND)
        self._suppressed = 0
        self._resolve_rules(access())

    def _resolve_rules(self, access: Access) -> None:
        self._resolved_access = access
        self._rules = {name: _ResolvedRule(rule) for name, rule in access.rules.items()}

    def get_denial_reason(self, peer: Peer, headers: RequestHeaders, is_proxied: bool) -> str:
        """Return why a call, to a plugin if it `is_proxied`, is denied; "" if it is permitted."""
        is_for_control = headers.path.startswith(_CONTROL_PATH_PREFIXES)
        if is_proxied and peer.uid in self._own_uids and not is_for_control:
            return ""  # The fast path of nearly all calls.
        service = headers.path[1:].partition("/")[0]
        if self._access() is not self._resolved_access:
            self._resolve_rules(self._access())
        own = GATEWAY if is_proxied else _OWN_SERVICES.get(service, GATEWAY)
        names = [CONTROL if is_for_control else own]
        if not is_proxied and service.startswith(_PUBLIC_SERVICE_PREFIXES):
            names = list(self._rules)
        # A forwarded call would have the rights of the gateway instead of those of its client.
        is_forwarded = (
            len(names) == 1
            and names[0] != GATEWAY
            and any(key == FORWARDED_METADATA_KEY for key, _ in headers.metadata)
        )
        if not is_forwarded and any(self._allows(name, peer) for name in names):
            return ""
        subject = f"a gateway for others, {peer}," if is_forwarded else str(peer)
        rule = f"access.{names[0]}" if len(names) == 1 else "access"
        text = f"{rule}: {subject} may not call {quote(service[:_MAX_NAME_LENGTH], safe='._-/')}"
        self._log_denial(text)
        return f"{text}; see [mesh.access]"

    def _allows(self, name: str, peer: Peer) -> bool:
        if peer.uid is not None:
            return peer.uid in self._own_uids or self._rules[name].allows_process(peer)
        if self._allow_anonymous:
            return name == GATEWAY
        return self._rules[name].allows_subject(peer)

    def _log_denial(self, text: str) -> None:
        """Log a denial. The rate is limited, as a client may repeat denied calls at will."""
        if self._log_rate_limit.try_acquire(trio.current_time()):
            more = f" ({self._suppressed} denials before it not logged)" if self._suppressed else ""
            _log.warning("denied: %s%s", text, more)
            self._suppressed = 0
        else:
            self._suppressed += 1


class _ResolvedRule:
    """A rule with users and groups resolved to ids."""

    def __init__(self, rule: AccessRule) -> None:
        self._uids = frozenset(resolve_uid(user) for user in rule.users)
        self._gids = frozenset(resolve_ids(None, group)[1] for group in rule.groups)
        self._subjects = rule.subjects

    def allows_process(self, peer: Peer) -> bool:
        return peer.uid in self._uids or not self._gids.isdisjoint(peer.groups)

    def allows_subject(self, peer: Peer) -> bool:
        if not peer.subject and not peer.subject_alt_names:
            return False
        names = {*peer.subject_attributes, *peer.subject_alt_names}
        return any(
            any(each.startswith(pattern[:-1]) for each in names)
            if pattern.endswith("*")
            else pattern in names
            for pattern in self._subjects
        )


def allows_other_users(access: Access) -> bool:
    """Return whether other users of this machine may use the mesh socket."""
    return any(rule.users or rule.groups for rule in access.rules.values())
