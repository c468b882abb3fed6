"""Who may call what on the mesh socket and the gateway's port, by the config's rules."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from urllib.parse import quote

import trio

from meshtrio.config import Access, AccessRule
from meshtrio.contract import MESH_FORWARDED
from meshtrio.rpc.peer import Peer
from meshtrio.runtime_dir import ids_of, uid_of
from meshtrio.wire.budget import Budget
from meshtrio.wire.heads import RequestHead

_log = logging.getLogger("meshtrio.access")

CONTROL, REGISTRY, GATEWAY = "control", "registry", "gateway"
_OWN = {"meshtrio.v1.Control": CONTROL, "meshtrio.v1.Registry": REGISTRY}
_FOR_CONTROL = (
    *(f"/meshtrio.v1.{name}/" for name in ("Load", "Logging", "Metrics", "Tap")),
    "/grpc.channelz.",
)
"""What tells of all calls, whoever makes them, or changes a process; of plugins as of the mesh."""
_FOR_ALL = ("grpc.health.", "grpc.reflection.")
_TOLD_PER_SECOND = 10.0
_LONGEST_NAME = 200


class Gatekeeper:
    """Holds callers to the rules there are at the time."""

    def __init__(self, access: Callable[[], Access], *, open_to_all: bool = False) -> None:
        """`open_to_all`: the gateway's port is in plaintext, where nobody can be told apart.

        Raises KeyError for users and groups that are not there.
        """
        self._access = access
        self._open_to_all = open_to_all
        self._ours = frozenset({0, os.geteuid()})
        self._log_budget = Budget(_TOLD_PER_SECOND, _TOLD_PER_SECOND)
        self._untold = 0
        self._adopt(access())

    def _adopt(self, access: Access) -> None:
        self._adopted = access
        self._rules = {name: _Resolved(rule) for name, rule in access.rules.items()}

    def refusal(self, peer: Peer, head: RequestHead, through: bool) -> str:
        """Why a call may not be made, "" if it may; `through`: to a plugin."""
        is_for_control = head.path.startswith(_FOR_CONTROL)
        if through and peer.uid in self._ours and not is_for_control:
            return ""  # as it is with nearly all calls
        service = head.path[1:].partition("/")[0]
        if self._access() is not self._adopted:
            self._adopt(self._access())
        names = [GATEWAY if through else _OWN.get(service, GATEWAY)]
        if is_for_control:
            names = [CONTROL]
        if not through and service.startswith(_FOR_ALL):
            names = list(self._rules)
        # What is forwarded comes with the rights of the gateway, not of who makes the call.
        borrowed = names[0] != GATEWAY and len(names) == 1 and _is_forwarded(head)
        if not borrowed and any(self._allows(name, peer) for name in names):
            return ""
        who = f"a gateway for others, {peer}," if borrowed else str(peer)
        rule = f"access.{names[0]}" if len(names) == 1 else "access"
        text = f"{rule}: {who} may not call {quote(service[:_LONGEST_NAME], safe='._-/')}"
        self._tell(text)
        return f"{text}; the mesh's config says who may"

    def _allows(self, name: str, peer: Peer) -> bool:
        if peer.uid is not None:
            return peer.uid in self._ours or self._rules[name].allows_process(peer)
        if self._open_to_all:
            return name == GATEWAY
        return self._rules[name].allows_subject(peer)

    def _tell(self, text: str) -> None:
        """Log it; not without bounds, since whoever is refused may ask as often as he likes."""
        if self._log_budget.take(trio.current_time()):
            more = f" ({self._untold} more refusals before it)" if self._untold else ""
            _log.warning("refused: %s%s", text, more)
            self._untold = 0
        else:
            self._untold += 1


class _Resolved:
    """A rule, with users and groups as the numbers they have now."""

    def __init__(self, rule: AccessRule) -> None:
        self._uids = frozenset(uid_of(user) for user in rule.users)
        self._gids = frozenset(ids_of(None, group)[1] for group in rule.groups)
        self._subjects = rule.subjects

    def allows_process(self, peer: Peer) -> bool:
        return peer.uid in self._uids or not self._gids.isdisjoint(peer.groups)

    def allows_subject(self, peer: Peer) -> bool:
        if not peer.subject and not peer.names:
            return False
        said = {*peer.attributes, *peer.names}
        return any(_matches(pattern, said) for pattern in self._subjects)


def _matches(pattern: str, said: set[str]) -> bool:
    if pattern.endswith("*"):
        return any(each.startswith(pattern[:-1]) for each in said)
    return pattern in said


def _is_forwarded(head: RequestHead) -> bool:
    return any(key == MESH_FORWARDED for key, _ in head.metadata)


def is_shared(access: Access) -> bool:
    """Whether other users of this machine may use the mesh socket."""
    return any(rule.users or rule.groups for rule in access.rules.values())
