"""What a registry knows, as messages of meshtrio.v1.Registry and back."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from meshtrio.address import Address, TlsFiles
from meshtrio.client.endpoint import Departure, Endpoint, ServiceState
from meshtrio.messages import registry as messages
from meshtrio.texts import whole


def registration_of(
    service: str, socket: Path | str, weight: int, tls: TlsFiles | None, *, local: bool | None
) -> Any:
    """A RegisterRequest for a path, or for an address."""
    where = str(socket)
    if not where.startswith(("unix:", "tcp:")):
        where = f"unix:{os.path.abspath(where)}"
    request = messages.RegisterRequest(service=service, weight=weight, **_address_fields(where))
    if local is not None:
        request.local = local
    if tls is not None:
        request.tls.CopyFrom(from_tls(tls))
    return request


def to_message(service: str, state: ServiceState) -> Any:
    return messages.ServiceState(
        service=service,
        endpoints=[_from_endpoint(endpoint) for endpoint in state.endpoints],
        service_config=state.service_config,
        unattended=state.unattended,
        departures=[
            messages.Departure(
                endpoint_id=whole(d.endpoint_id),
                reason=whole(d.reason),
                exit_status=d.exit_status,
                signal=d.signal,
                stderr_tail=d.stderr_tail,
                life=d.life,
            )
            for d in state.departures
        ],
    )


def from_message(message: Any) -> ServiceState:
    return ServiceState(
        endpoints=tuple(_to_endpoint(each) for each in message.endpoints),
        service_config=message.service_config,
        unattended=message.unattended,
        departures=tuple(
            Departure(
                endpoint_id=d.endpoint_id,
                reason=d.reason,
                exit_status=d.exit_status if d.HasField("exit_status") else None,
                signal=d.signal if d.HasField("signal") else None,
                stderr_tail=tuple(d.stderr_tail),
                life=d.life,
            )
            for d in message.departures
        ),
    )


def _address_fields(address: str) -> dict[str, Any]:
    """The fields of an address; a path that is not UTF-8 has a field of its own, in bytes."""
    text = whole(address)
    if text == address:
        return {"address": address}
    return {"address": text, "path": os.fsencode(Address.parse(address).path)}


def address_in(message: Any) -> str:
    """The address that an Endpoint or a RegisterRequest has. Raises ValueError."""
    if message.HasField("path"):
        return f"unix:{os.fsdecode(message.path)}"
    address: str = message.address
    return address


def _from_endpoint(endpoint: Endpoint) -> Any:
    return messages.Endpoint(
        id=whole(endpoint.id),
        **_address_fields(endpoint.address),
        instance=endpoint.instance,
        pid=endpoint.pid,
        weight=endpoint.weight,
        priority=endpoint.priority,
        tls=None if endpoint.tls is None else from_tls(endpoint.tls),
        owner=endpoint.owner,
    )


def _to_endpoint(message: Any) -> Endpoint:
    return Endpoint(
        id=message.id,
        address=address_in(message),
        instance=message.instance,
        pid=message.pid,
        # Not set by a mesh that is older than this client.
        weight=message.weight or 1,
        priority=message.priority,
        tls=to_tls(message.tls) if message.HasField("tls") else None,
        owner=message.owner if message.HasField("owner") else None,
    )


def from_tls(files: TlsFiles) -> Any:
    return messages.Tls(
        ca_path=str(files.ca or ""),
        certificate_path=str(files.certificate or ""),
        key_path=str(files.key or ""),
        server_name=files.server_name or "",
    )


def to_tls(message: Any) -> TlsFiles:
    def path(text: str) -> Path | None:
        return Path(text) if text else None

    return TlsFiles(
        ca=path(message.ca_path),
        certificate=path(message.certificate_path),
        key=path(message.key_path),
        server_name=message.server_name or None,
    )
