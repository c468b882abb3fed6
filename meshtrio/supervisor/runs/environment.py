"""Builds the environment variables of a plugin's process.

The variables come in layers, each of which overrides those before it:

1. `PYTHONUNBUFFERED=1`, so that what a Python program prints is in the log at once;
2. the mesh's own environment, without the variables that a service manager or an outer mesh has
   set for the mesh itself, or only those that the plugin's `inherit_env` names;
3. `HOME`, `USER` and `LOGNAME` of the user that the plugin runs as, if that is not the mesh's;
4. the plugin's `env`;
5. the contract between a mesh and its plugins (`meshtrio.contract`), the telemetry settings, and
   NOTIFY_SOCKET and WATCHDOG_USEC for a plugin that reports by sd_notify(3), and those of an
   inherited listening socket. WATCHDOG_PID is not set: it is not known before the start, and
   without it any process of the plugin may report.

`process.cleanup.mesh_run` adds MESH_ID and MESH_PIDFD when the process is started, and the process
itself LISTEN_PID, before the program begins.

Telemetry has variables that are not the mesh's alone: OpenTelemetry's (`OTEL_...`) and gRPC's
`GRPC_BINARY_LOG_FILTER` keep the value that the plugin's `env` gives them.

Pure: the caller passes the mesh's environment and the user's entry of the password database.
"""

from __future__ import annotations

import pwd
from collections.abc import Mapping
from pathlib import Path

from meshtrio import contract
from meshtrio.config import ProgramConfig, TaskConfig
from meshtrio.config.otlp_endpoint import COMMON_PREFIX, TRACES_PREFIX
from meshtrio.config.telemetry import METRICS_FROM_MESH, METRICS_OFF, parse_host_port
from meshtrio.supervisor.run_spec import RunSpec
from meshtrio.util.busy_poll_setting import format_max_busy_poll


def child_environment(
    spec: RunSpec, *, inherited: Mapping[str, str], user: pwd.struct_passwd | None
) -> dict[str, str]:
    """Build the environment of one process of a plugin.

    Args:
        spec: The process run.
        inherited: The environment of the mesh.
        user: The user that the plugin runs as; None for the mesh's.
    """
    return {
        **shared_environment(spec.config, inherited=inherited, user=user),
        **_contract(spec),
        **_tracing(spec),
        **_binary_log(spec),
        **_listen_fds(spec),
        **_notifications(spec),
    }


def task_environment(
    task: TaskConfig,
    mesh_socket: Path,
    launch_id: str,
    *,
    inherited: Mapping[str, str],
    user: pwd.struct_passwd | None,
) -> dict[str, str]:
    """Build the environment of one process of a task; it serves nothing, but may call plugins."""
    level = task.output.log_level
    variables = {
        contract.PLUGIN_NAME: task.name,
        contract.MESH_SOCKET: mesh_socket,
        contract.MESH_LAUNCH_ID: launch_id,
        contract.PLUGIN_STOP_TIMEOUT: f"{task.stop_timeout:g}",
        contract.PLUGIN_LOG_LEVEL: level and level.value,
    }
    return {
        **shared_environment(task, inherited=inherited, user=user),
        **{name: str(value) for name, value in variables.items() if value is not None},
    }


def shared_environment(
    plugin: ProgramConfig, *, inherited: Mapping[str, str], user: pwd.struct_passwd | None
) -> dict[str, str]:
    """Build the part that all processes of a plugin have, and so a template of it: layers 1 to 4.

    The arguments are those of `child_environment`.
    """
    user_variables = {}  # as login(1) sets them
    if user is not None:
        user_variables = {"HOME": user.pw_dir, "USER": user.pw_name, "LOGNAME": user.pw_name}
    return {
        "PYTHONUNBUFFERED": "1",
        **_inherited(plugin, inherited),
        **user_variables,
        **plugin.env,
    }


def _inherited(plugin: ProgramConfig, inherited: Mapping[str, str]) -> dict[str, str]:
    names, withheld = plugin.inherit_env, contract.MESH_VARIABLES
    if names is None:
        withheld |= contract.SERVICE_MANAGER_VARIABLES
    return {
        name: value
        for name, value in inherited.items()
        if name not in withheld and (names is None or name in names)
    }


def _contract(spec: RunSpec) -> dict[str, str]:
    plugin, tls, level = spec.config, spec.config.serve_tls, spec.config.output.log_level
    metrics, busy_poll = _metrics_location(spec), plugin.max_busy_poll
    experimental = "1" if metrics and spec.telemetry.experimental else None
    variables = {
        contract.PLUGIN_SOCKET: spec.socket,
        contract.PLUGIN_NAME: plugin.name,
        contract.PLUGIN_INSTANCE: spec.number,
        contract.MESH_SOCKET: spec.mesh_socket,
        contract.MESH_LAUNCH_ID: spec.launch_id,
        contract.PLUGIN_STOP_TIMEOUT: f"{plugin.stop_timeout:g}",
        contract.PLUGIN_LOG_LEVEL: level and level.value,
        contract.PLUGIN_MAX_RECEIVE_MESSAGE_LENGTH: plugin.max_receive_message_length,
        contract.PLUGIN_MAX_SEND_MESSAGE_LENGTH: plugin.max_send_message_length,
        contract.PLUGIN_MAX_CONNECTION_AGE: plugin.max_connection_age,
        contract.PLUGIN_MAX_CONNECTION_AGE_GRACE: plugin.max_connection_age_grace,
        contract.PLUGIN_IDLE_TIMEOUT: plugin.idle_timeout if plugin.has_service else None,
        contract.PLUGIN_LISTEN: spec.listen,
        contract.PLUGIN_TLS_CERTIFICATE: tls and tls.certificate,
        contract.PLUGIN_TLS_KEY: tls and tls.key,
        contract.PLUGIN_TLS_CLIENT_CA: tls and tls.client_ca,
        contract.MESHTRIO_BUSY_POLL: None if busy_poll is None else format_max_busy_poll(busy_poll),
        contract.PLUGIN_METRICS: metrics,
        contract.PLUGIN_METRICS_EXPERIMENTAL: experimental,
    }
    return {name: str(value) for name, value in variables.items() if value is not None}


def _metrics_location(spec: RunSpec) -> str | None:
    """Return where the plugin exposes its metrics, None if it does not."""
    where = spec.config.metrics
    if not spec.config.has_service:
        return None
    if where == METRICS_FROM_MESH:
        return None if spec.telemetry.metrics is None else where
    if where == METRICS_OFF:
        return None
    base = parse_host_port(where)
    return str(spec.config.shift_port(base, spec.number, spec.slot)).removeprefix("tcp:")


def _tracing(spec: RunSpec) -> dict[str, str]:
    """Give OpenTelemetry's variables, except for those that the plugin's `env` sets.

    Source: OpenTelemetry Environment Variable Specification.
    """
    plugin, endpoint, own = spec.config, spec.telemetry.otlp_endpoint, spec.config.env.keys()
    if endpoint is None:
        return {}
    variables = {
        "OTEL_TRACES_EXPORTER": "otlp",
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": f"{spec.telemetry.sampling:g}",
        "OTEL_SERVICE_NAME": plugin.service_name,
        "OTEL_RESOURCE_ATTRIBUTES": f"service.instance.id={spec.number}",
    }
    # A plugin with a collector of its own is configured by its own variables alone.
    if not {COMMON_PREFIX + "ENDPOINT", TRACES_PREFIX + "ENDPOINT"} & own:
        variables |= endpoint.environment
    # The header variable for traces would override the plugin's own for all signals.
    if COMMON_PREFIX + "HEADERS" in own:
        variables.pop(TRACES_PREFIX + "HEADERS", None)
    return {name: value for name, value in variables.items() if name not in own}


def _listen_fds(spec: RunSpec) -> dict[str, str]:
    """Give the variables of sd_listen_fds(3), apart from LISTEN_PID."""
    if not spec.config.listen_fds:
        return {}
    return {"LISTEN_FDS": "1", "LISTEN_FDNAMES": spec.config.name}


def _notifications(spec: RunSpec) -> dict[str, str]:
    variables = {}
    if spec.notify_socket is not None:
        variables["NOTIFY_SOCKET"] = str(spec.notify_socket.absolute())
    if spec.config.watchdog_interval is not None:
        variables["WATCHDOG_USEC"] = str(max(int(spec.config.watchdog_interval * 1e6), 1))
    return variables


def _binary_log(spec: RunSpec) -> dict[str, str]:
    telemetry = spec.telemetry
    wanted = spec.config.env.get(contract.GRPC_BINARY_LOG_FILTER, telemetry.binary_log)
    if wanted is None:
        return {}
    directory = telemetry.binary_log_directory(spec.mesh_socket.parent)
    return {
        contract.GRPC_BINARY_LOG_FILTER: wanted,
        contract.PLUGIN_BINARY_LOG_FOLDER: str(directory.absolute()),
        contract.PLUGIN_BINARY_LOG_SIZE: str(telemetry.max_binary_log_bytes),
        contract.PLUGIN_BINARY_LOG_FILES: str(telemetry.binary_log_files),
    }
