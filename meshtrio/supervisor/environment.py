"""Builds the environment variables of a plugin's process.

The variables come in layers, each of which overrides those before it:

1. `PYTHONUNBUFFERED=1`, so that what a Python program prints is in the log at once;
2. the mesh's own environment, without the variables that a service manager or an outer mesh has
   set for the mesh itself, or only those that the plugin's `inherit_env` names;
3. `HOME`, `USER` and `LOGNAME` of the user that the plugin runs as, if that is not the mesh's;
4. the plugin's `env`;
5. the contract between a mesh and its plugins (`meshtrio.contract`), and the telemetry settings.

`process.cleanup.mesh_run` adds MESH_ID and MESH_PIDFD when the process is started.

Telemetry has variables that are not the mesh's alone: OpenTelemetry's (`OTEL_...`) and gRPC's
`GRPC_BINARY_LOG_FILTER` keep the value that the plugin's `env` gives them.

Pure: the caller passes the mesh's environment and the user's entry of the password database.
"""

from __future__ import annotations

import pwd
from collections.abc import Mapping
from pathlib import Path

import attrs

from meshtrio import contract
from meshtrio.config import PluginConfig, TelemetryConfig
from meshtrio.config.otlp_endpoint import (
    OTEL_EXPORTER_OTLP_ENDPOINT,
    OTEL_EXPORTER_OTLP_HEADERS,
    OTEL_EXPORTER_OTLP_TRACES_ENDPOINT,
    OTEL_EXPORTER_OTLP_TRACES_HEADERS,
)
from meshtrio.config.telemetry import METRICS_FROM_MESH, METRICS_OFF, parse_host_port


def child_environment(
    plugin: PluginConfig,
    instance: int,
    slot: int,
    *,
    telemetry: TelemetryConfig,
    launch_id: str,
    socket: Path,
    mesh_socket: Path,
    inherited: Mapping[str, str],
    user: pwd.struct_passwd | None,
) -> dict[str, str]:
    """Build the environment of one process of a plugin.

    Args:
        plugin: The plugin's configuration.
        instance: The number of the instance, from 0.
        slot: Which of the instance's two addresses the process uses, 0 or 1; a replacement
            uses the one that its predecessor does not.
        telemetry: The mesh's telemetry configuration.
        launch_id: The id by which the processes of this launch are found.
        socket: The Unix socket that the plugin binds, unless its config has `listen`.
        mesh_socket: The mesh's own socket, in its runtime directory.
        inherited: The environment of the mesh.
        user: The user that the plugin runs as; None for the mesh's.
    """
    return {
        "PYTHONUNBUFFERED": "1",
        **_inherited(plugin, inherited),
        **_user(user),
        **plugin.env,
        **_identity(plugin, instance, launch_id, socket, mesh_socket),
        **_settings(plugin),
        **_serving(plugin, instance, slot),
        **_metrics(plugin, instance, slot, telemetry),
        **_tracing(plugin, instance, telemetry),
        **_binary_log(plugin, telemetry, mesh_socket.parent),
    }


def _inherited(plugin: PluginConfig, inherited: Mapping[str, str]) -> dict[str, str]:
    names, withheld = plugin.inherit_env, contract.MESH_VARIABLES
    if names is None:
        withheld |= contract.SERVICE_MANAGER_VARIABLES
    return {
        name: value
        for name, value in inherited.items()
        if name not in withheld and (names is None or name in names)
    }


def _user(user: pwd.struct_passwd | None) -> dict[str, str]:
    """Give what login(1) sets for a user."""
    if user is None:
        return {}
    return {"HOME": user.pw_dir, "USER": user.pw_name, "LOGNAME": user.pw_name}


def _identity(
    plugin: PluginConfig, instance: int, launch_id: str, socket: Path, mesh_socket: Path
) -> dict[str, str]:
    return {
        contract.PLUGIN_SOCKET: str(socket),
        contract.PLUGIN_NAME: plugin.name,
        contract.PLUGIN_INSTANCE: str(instance),
        contract.MESH_SOCKET: str(mesh_socket),
        contract.MESH_LAUNCH_ID: launch_id,
    }


def _settings(plugin: PluginConfig) -> dict[str, str]:
    level = plugin.output.log_level
    return _present(
        {
            contract.PLUGIN_STOP_TIMEOUT: f"{plugin.stop_timeout:g}",
            contract.PLUGIN_LOG_LEVEL: None if level is None else level.value,
            contract.PLUGIN_MAX_RECEIVE_MESSAGE_LENGTH: plugin.max_receive_message_length,
            contract.PLUGIN_MAX_SEND_MESSAGE_LENGTH: plugin.max_send_message_length,
        }
    )


def _serving(plugin: PluginConfig, instance: int, slot: int) -> dict[str, str]:
    tls = plugin.serve_tls
    return _present(
        {
            contract.PLUGIN_LISTEN: plugin.instance_address(instance, slot),
            contract.PLUGIN_TLS_CERTIFICATE: None if tls is None else tls.certificate,
            contract.PLUGIN_TLS_KEY: None if tls is None else tls.key,
            contract.PLUGIN_TLS_CLIENT_CA: None if tls is None else tls.client_ca,
        }
    )


def _metrics(
    plugin: PluginConfig, instance: int, slot: int, telemetry: TelemetryConfig
) -> dict[str, str]:
    if plugin.metrics == METRICS_OFF:
        return {}
    if plugin.metrics == METRICS_FROM_MESH:
        if telemetry.metrics is None:
            return {}
        where = METRICS_FROM_MESH
    else:
        base = parse_host_port(plugin.metrics)
        port = base.port + instance + slot * plugin.instances
        where = str(attrs.evolve(base, port=port)).removeprefix("tcp:")
    variables = {contract.PLUGIN_METRICS: where}
    if telemetry.experimental:
        variables[contract.PLUGIN_METRICS_EXPERIMENTAL] = "1"
    return variables


def _tracing(plugin: PluginConfig, instance: int, telemetry: TelemetryConfig) -> dict[str, str]:
    """Give OpenTelemetry's variables, except for those that the plugin's `env` sets.

    Source: OpenTelemetry Environment Variable Specification.
    """
    endpoint, own = telemetry.otlp_endpoint, plugin.env.keys()
    if endpoint is None:
        return {}
    variables = {
        "OTEL_TRACES_EXPORTER": "otlp",
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": f"{telemetry.sampling:g}",
        "OTEL_SERVICE_NAME": plugin.service,
        "OTEL_RESOURCE_ATTRIBUTES": f"service.instance.id={instance}",
    }
    # A plugin with a collector of its own is configured by its own variables alone.
    if not {OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT} & own:
        variables |= endpoint.environment
    # The header variable for traces would override the plugin's own for all signals.
    if OTEL_EXPORTER_OTLP_HEADERS in own:
        variables.pop(OTEL_EXPORTER_OTLP_TRACES_HEADERS, None)
    return {name: value for name, value in variables.items() if name not in own}


def _binary_log(
    plugin: PluginConfig, telemetry: TelemetryConfig, runtime_dir: Path
) -> dict[str, str]:
    wanted = plugin.env.get(contract.GRPC_BINARY_LOG_FILTER, telemetry.binary_log)
    if wanted is None:
        return {}
    directory = telemetry.binary_log_directory(runtime_dir)
    return {
        contract.GRPC_BINARY_LOG_FILTER: wanted,
        contract.PLUGIN_BINARY_LOG_FOLDER: str(directory.absolute()),
        contract.PLUGIN_BINARY_LOG_SIZE: str(telemetry.max_binary_log_bytes),
        contract.PLUGIN_BINARY_LOG_FILES: str(telemetry.binary_log_files),
    }


def _present(variables: Mapping[str, object]) -> dict[str, str]:
    return {name: str(value) for name, value in variables.items() if value is not None}
