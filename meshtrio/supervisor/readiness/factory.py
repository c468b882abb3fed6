"""Makes the checks of a process run from its config."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from meshtrio.config import ready
from meshtrio.config.ready import GrpcCheck, HttpCheck, NotifyCheck
from meshtrio.supervisor.probe import Connect, SocketProbe
from meshtrio.supervisor.readiness.channels import ReportChannels
from meshtrio.supervisor.readiness.checks import (
    HealthChecks,
    LivenessCheck,
    ReadinessCheck,
    StartedCheck,
)
from meshtrio.supervisor.readiness.http import HttpQuery
from meshtrio.supervisor.readiness.notify import NotifiedReadiness, Watchdog
from meshtrio.supervisor.readiness.server import ReadyService, ServerCheck, query_accepting
from meshtrio.supervisor.run_spec import RunSpec

_ACCEPTING_PROBE = SocketProbe(query=query_accepting)


@attrs.frozen(kw_only=True)
class CheckSources:
    """What the checks of a run use, in addition to its config."""

    probe: SocketProbe
    """Checks gRPC's health."""
    connect: Connect
    """Connects to the gRPC server, and verifies that it is the plugin's."""
    connect_to: Callable[[str], Connect]
    """Returns what connects to another address of it, and verifies that likewise."""
    channels: ReportChannels = attrs.field(factory=ReportChannels)
    """What it reports by."""


def make_checks(spec: RunSpec, sources: CheckSources) -> HealthChecks:
    """Make the checks of a process run."""
    has_service = spec.config.has_service
    service: ServerCheck | None = None
    if has_service:
        is_grpc = isinstance(spec.ready_check, GrpcCheck)
        service = ServerCheck(sources.probe if is_grpc else _ACCEPTING_PROBE, sources.connect)
    readiness = _make_readiness(spec, sources)
    if service is not None and not isinstance(spec.ready_check, GrpcCheck):
        readiness = ReadyService(readiness, service)
    liveness, address = _make_liveness(spec, sources)
    return HealthChecks(readiness, liveness, service, address)


def _make_readiness(spec: RunSpec, sources: CheckSources) -> ReadinessCheck:
    check = spec.ready_check
    match check:
        case ready.StartedCheck():
            return StartedCheck()
        case ready.FdCheck():
            # Without a pipe it was ready before an upgrade.
            return StartedCheck() if sources.channels.pipe is None else sources.channels.pipe
        case ready.NotifyCheck():
            assert sources.channels.notify is not None
            return NotifiedReadiness(sources.channels.notify)
    return _make_server_check(check, sources)


def _make_liveness(spec: RunSpec, sources: CheckSources) -> tuple[LivenessCheck | None, str]:
    """Make the check of liveness, and return the address that it connects to."""
    check = spec.liveness_check
    if check is None:
        return None, ""
    if isinstance(check, NotifyCheck):
        assert sources.channels.notify is not None
        is_required = spec.config.liveness.check is not None
        interval = spec.config.liveness.interval
        return Watchdog(sources.channels.notify, interval, is_required), ""
    address = spec.address if isinstance(check, GrpcCheck) else str(check.address)
    return _make_server_check(check, sources), address


def _make_server_check(check: GrpcCheck | ready.ServerCheck, sources: CheckSources) -> ServerCheck:
    if isinstance(check, GrpcCheck):
        return ServerCheck(sources.probe, sources.connect)
    probe = _ACCEPTING_PROBE
    if isinstance(check, HttpCheck):
        probe = SocketProbe(query=HttpQuery(check), request_name=f"GET {check.path}")
    return ServerCheck(probe, sources.connect_to(str(check.address)))
