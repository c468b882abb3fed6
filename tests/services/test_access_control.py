"""Who may call what: the rules, on callers as the kernel and TLS describe them."""

from __future__ import annotations

import os

import pytest
import trio

from meshtrio.config import Access, AccessRule
from meshtrio.grpc.headers import RequestHeaders
from meshtrio.services.access_control import AccessControl
from meshtrio.transport.peer import Peer

CONTROL, REGISTRY = "meshtrio.v1.Control", "meshtrio.v1.Registry"
CHANNELZ = "grpc.channelz.v1.Channelz"
LOGGING = "meshtrio.v1.Logging"
HEALTH, ECHO = "grpc.health.v1.Health", "echo.v1.EchoService"
US = Peer(pid=1, uid=os.geteuid(), gid=0)
OTHER = Peer(pid=2, uid=4711, gid=4712, groups=(4712, 4713))
OPS = Peer(
    address="10.0.0.1:5",
    subject=(("commonName", "ops"), ("organizationName", "Example")),
    subject_alt_names=("URI:spiffe://example.org/ops/1",),
)


def head(service: str, *metadata: tuple[str, str]) -> RequestHeaders:
    return RequestHeaders(
        method="POST",
        scheme="http",
        path=f"/{service}/Method",
        authority="x",
        content_type="application/grpc",
        timeout=None,
        encoding="identity",
        accept_encoding=(),
        user_agent="",
        metadata=metadata,
    )


def rules(**by_name: AccessRule) -> Access:
    return Access(**by_name)


async def allowed(access: Access, peer: Peer, *, open_to_all: bool = False) -> set[str]:
    await trio.lowlevel.checkpoint()
    keeper = AccessControl(lambda: access, allow_anonymous=open_to_all)
    asked = {CONTROL: False, REGISTRY: False, HEALTH: False, ECHO: True}
    return {
        name
        for name, through in asked.items()
        if not keeper.get_denial_reason(peer, head(name), through)
    }


async def test_by_default_only_we_and_root() -> None:
    everything = {CONTROL, REGISTRY, HEALTH, ECHO}
    assert await allowed(Access(), US) == everything
    assert await allowed(Access(), Peer(pid=1, uid=0, gid=0)) == everything
    assert await allowed(Access(), OTHER) == set()
    assert await allowed(Access(), OPS) == set()
    assert await allowed(Access(), Peer()) == set()


@pytest.mark.parametrize(
    ("rule", "peer"),
    [
        (AccessRule(users=["4711"]), OTHER),
        (AccessRule(groups=["4713"]), OTHER),
        (AccessRule(subjects=["CN=ops"]), OPS),
        (AccessRule(subjects=["O=Exa*"]), OPS),
        (AccessRule(subjects=["URI:spiffe://example.org/*"]), OPS),
        (AccessRule(subjects=["*"]), OPS),
    ],
)
async def test_a_rule_allows_its_part_and_health(rule: AccessRule, peer: Peer) -> None:
    assert await allowed(rules(control=rule), peer) == {CONTROL, HEALTH}
    assert await allowed(rules(registry=rule), peer) == {REGISTRY, HEALTH}
    assert await allowed(rules(gateway=rule), peer) == {ECHO, HEALTH}


@pytest.mark.parametrize(
    ("rule", "peer"),
    [
        (AccessRule(users=["4712"]), OTHER),
        (AccessRule(groups=["4711"]), OTHER),
        (AccessRule(subjects=["*"]), OTHER),
        (AccessRule(subjects=["CN=op", "CN=opsy", "O=ops"]), OPS),
        # Without a certificate there is no subject for "*" to match.
        (AccessRule(subjects=["*"]), Peer(address="10.0.0.1:5")),
        (AccessRule(users=["4711"]), OPS),
    ],
)
async def test_others_are_not_allowed_by_it(rule: AccessRule, peer: Peer) -> None:
    assert await allowed(rules(control=rule, registry=rule, gateway=rule), peer) == set()


@pytest.mark.parametrize("through", [False, True], ids=["the mesh's", "a plugin's"])
async def test_channelz_is_for_whoever_may_use_control(through: bool) -> None:
    await trio.lowlevel.checkpoint()
    rule, asked = AccessRule(users=["4711"]), head(CHANNELZ)
    for name in ("registry", "gateway"):
        keeper = AccessControl(lambda name=name: rules(**{name: rule}))  # type: ignore[misc]
        assert keeper.get_denial_reason(OTHER, asked, through).startswith(
            "access.control: uid 4711"
        )
        assert keeper.get_denial_reason(US, asked, through) == ""
    keeper = AccessControl(lambda: rules(control=rule))
    assert keeper.get_denial_reason(OTHER, asked, through) == ""
    keeper = AccessControl(Access, allow_anonymous=True)
    assert keeper.get_denial_reason(Peer(address="10.0.0.1:5"), asked, through) != ""


async def test_a_port_in_plaintext_is_for_plugins_only() -> None:
    everybody = AccessRule(subjects=["*"])
    access = rules(control=everybody, registry=everybody)
    assert await allowed(access, Peer(address="10.0.0.1:5"), open_to_all=True) == {HEALTH, ECHO}


async def test_what_a_gateway_passes_on_may_not_use_control_or_registry() -> None:
    await trio.lowlevel.checkpoint()
    keeper = AccessControl(Access)
    for service in (CONTROL, REGISTRY):
        forwarded = head(service, ("x-mesh-forwarded", "uid 4711 (pid 2)"))
        assert "a gateway for others" in keeper.get_denial_reason(US, forwarded, False)
        assert keeper.get_denial_reason(US, head(service), False) == ""
    forwarded = head(ECHO, ("x-mesh-forwarded", "uid 4711 (pid 2)"))
    assert keeper.get_denial_reason(US, forwarded, True) == ""


@pytest.mark.parametrize("service", ["Tap", "Metrics", "Load"])
async def test_what_tells_of_others_calls_is_for_control(service: str) -> None:
    """In plugins as in the mesh itself: who may call plugins may not watch who else does."""
    asked = head(f"meshtrio.v1.{service}")
    for through in (False, True):
        for part, may in (("gateway", False), ("control", True)):
            access = rules(**{part: AccessRule(users=["4711"])})
            keeper = AccessControl(lambda access=access: access)
            assert (keeper.get_denial_reason(OTHER, asked, through) == "") is may
        assert AccessControl(Access, allow_anonymous=True).get_denial_reason(Peer(), asked, through)


async def test_a_plugins_log_level_is_changed_by_who_may_use_control() -> None:
    """The plugin serves it, but not for all who may call the plugin."""
    await trio.lowlevel.checkpoint()
    allowed = AccessRule(users=["4711"])
    by_gateway, by_control = (
        AccessControl(lambda: rules(gateway=allowed)),
        AccessControl(lambda: rules(control=allowed)),
    )
    assert by_gateway.get_denial_reason(OTHER, head(ECHO), True) == ""
    assert "access.control: uid 4711" in by_gateway.get_denial_reason(OTHER, head(LOGGING), True)
    assert by_control.get_denial_reason(OTHER, head(LOGGING), True) == ""
    assert by_gateway.get_denial_reason(US, head(LOGGING), True) == ""
    forwarded = head(LOGGING, ("x-mesh-forwarded", "uid 4711 (pid 2)"))
    assert "a gateway for others" in by_gateway.get_denial_reason(US, forwarded, True)
    plaintext = AccessControl(Access, allow_anonymous=True)
    assert plaintext.get_denial_reason(Peer(address="10.0.0.1:5"), head(LOGGING), True)


async def test_new_rules_are_gone_by_at_once_and_refusals_are_bounded_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    await trio.lowlevel.checkpoint()
    now = [Access()]
    keeper = AccessControl(lambda: now[0])
    name = "x" * 1000 + "\x1b[2J"
    for _ in range(1000):
        assert keeper.get_denial_reason(OTHER, head(name), True)
    assert len(caplog.records) < 30
    assert all("\x1b" not in each.message and len(each.message) < 400 for each in caplog.records)
    now[0] = rules(gateway=AccessRule(users=["4711"]))
    assert keeper.get_denial_reason(OTHER, head(ECHO), True) == ""
