"""Conversion between the model of discovery and the messages of meshtrio.v1.Registry."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from meshtrio.discovery.endpoint import Endpoint, ExitInfo, ServiceState
from meshtrio.messages import registry as messages
from meshtrio.util.address import Address
from meshtrio.util.text import replace_surrogates
from meshtrio.util.tls_config import ClientTlsConfig


def make_register_request(
    service: str,
    socket: Path | str,
    weight: int,
    tls: ClientTlsConfig | None,
    *,
    local: bool | None,
) -> Any:
    """Make a RegisterRequest for the path of a Unix socket, or for an address."""
    address = str(socket)
    if not address.startswith(("unix:", "tcp:")):
        address = f"unix:{os.path.abspath(address)}"
    fields = _make_address_fields(address) | {"local": local, "tls": tls_to_message(tls)}
    return messages.RegisterRequest(service=service, weight=weight, **fields)


def state_to_message(service: str, state: ServiceState) -> Any:
    return messages.ServiceState(
        service=service,
        endpoints=[_endpoint_to_message(endpoint) for endpoint in state.endpoints],
        service_config=state.service_config,
        unattended=state.unmanaged,
        on_demand=state.on_demand,
        departures=[
            messages.Departure(
                endpoint_id=replace_surrogates(d.endpoint_id),
                reason=replace_surrogates(d.reason),
                exit_status=d.exit_status,
                signal=d.signal,
                stderr_tail=d.stderr_tail,
                launch_id=d.launch_id,
            )
            for d in state.exit_infos
        ],
    )


def state_from_message(message: Any) -> ServiceState:
    return ServiceState(
        endpoints=tuple(_endpoint_from_message(each) for each in message.endpoints),
        service_config=message.service_config,
        unmanaged=message.unattended,
        on_demand=message.on_demand,
        exit_infos=tuple(
            ExitInfo(
                endpoint_id=d.endpoint_id,
                reason=d.reason,
                exit_status=d.exit_status if d.HasField("exit_status") else None,
                signal=d.signal if d.HasField("signal") else None,
                stderr_tail=tuple(d.stderr_tail),
                launch_id=d.launch_id,
            )
            for d in message.departures
        ),
    )


def _make_address_fields(address: str) -> dict[str, Any]:
    """Return the fields of an address; `path`, in bytes, is for paths that are not UTF-8."""
    text = replace_surrogates(address)
    if text == address:
        return {"address": address}
    return {"address": text, "path": os.fsencode(Address.parse(address).path)}


def get_address(message: Any) -> str:
    """Return the address in an Endpoint or a RegisterRequest. Raises ValueError."""
    if message.HasField("path"):
        return f"unix:{os.fsdecode(message.path)}"
    return str(message.address)


def _endpoint_to_message(endpoint: Endpoint) -> Any:
    return messages.Endpoint(
        id=replace_surrogates(endpoint.id),
        **_make_address_fields(endpoint.address),
        instance=endpoint.instance,
        pid=endpoint.pid,
        weight=endpoint.weight,
        priority=endpoint.priority,
        tls=tls_to_message(endpoint.tls),
        owner=endpoint.server_uid,
        node=endpoint.node,
        gateway=endpoint.is_gateway,
    )


def _endpoint_from_message(message: Any) -> Endpoint:
    return Endpoint(
        id=message.id,
        address=get_address(message),
        instance=message.instance,
        pid=message.pid,
        # 0 from a mesh that is older than this client.
        weight=message.weight or 1,
        priority=message.priority,
        tls=tls_from_message(message.tls) if message.HasField("tls") else None,
        server_uid=message.owner if message.HasField("owner") else None,
        node=message.node,
        is_gateway=message.gateway,
    )


def tls_to_message(files: ClientTlsConfig | None) -> Any:
    return files and messages.Tls(
        ca_path=str(files.ca or ""),
        certificate_path=str(files.certificate or ""),
        key_path=str(files.key or ""),
        server_name=files.server_name or "",
    )


def tls_from_message(message: Any) -> ClientTlsConfig:
    paths = message.ca_path, message.certificate_path, message.key_path
    ca, certificate, key = (Path(text) if text else None for text in paths)
    return ClientTlsConfig(ca, certificate, key, server_name=message.server_name or None)
