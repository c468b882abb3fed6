"""The table of bounds in docs/security.md, from the classes and constants that set them.

Every field of a class in SOURCES that is a number is a row, so that no new one is forgotten; each
row needs a test, which `tests/docs/test_security.py` checks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import attrs

from meshtrio.config import GatewayConfig, Liveness, MeshConfig, OutputConfig, PluginConfig
from meshtrio.config.mesh import MeshLimits
from meshtrio.http2.limits import Limits
from meshtrio.rpc.timeouts import Timeouts

BEGIN, END = "<!-- bounds -->", "<!-- /bounds -->"
SOURCES: tuple[tuple[str, type], ...] = (
    ("The mesh socket and the gateway's port: `[mesh.gateway]`", GatewayConfig),
    ("What one user may take of the mesh's own services: `[mesh.limits]`", MeshLimits),
    ("A plugin's output: `output` of a `[[plugin]]`", OutputConfig),
    ("A plugin's health checks: `liveness` of a `[[plugin]]`", Liveness),
    ("Servers and clients made with meshtrio: `plugin.run(limits=Limits(...))`", Limits),
    ("The same, in seconds: `Timeouts` of `mesh.connect(timeouts=...)`", Timeouts),
)
FIELDS: tuple[tuple[str, type, str], ...] = (
    ("`max_instances` of `[[plugin]]`", PluginConfig, "max_instances"),
    ("`max_instances` of `[mesh]`", MeshConfig, "max_instances"),
)
"""Of classes that have other numbers, too."""
CONSTANTS: tuple[tuple[str, str, str], ...] = (
    ("meshtrio.contract", "MAX_LINE_LENGTH", "Bytes of a line of output; the rest is counted."),
    (
        "meshtrio.supervisor.process.output.output_lines",
        "_MAX_BUFFERED_LENGTH",
        "Bytes of the last lines that are kept of an instance.",
    ),
    (
        "meshtrio.gateway.router",
        "MAX_UNREAD_SIZE",
        "Bytes that a caller of the gateway may leave unread before its call is given up.",
    ),
    ("meshtrio.gateway.route", "MAX_GATEWAYS", "Gateways that a call may pass."),
    ("meshtrio.client.retry.policy", "MAX_ATTEMPTS", "Attempts of a call."),
    (
        "meshtrio.rpc.connection_limiter",
        "DESCRIPTORS_FRACTION",
        "Of all descriptors, for connections.",
    ),
    (
        "meshtrio.telemetry.metrics.gateway_metrics",
        "MAX_MEASURED_SERVICES",
        "Services that calls through the gateway are measured by.",
    ),
)
TESTS = {
    "MeshLimits.max_calls_per_user": "tests/system/test_registrars.py"
    "::test_what_one_user_holds_is_bounded",
    "MeshLimits.max_registrations_per_user": "tests/system/test_registrars.py"
    "::test_what_one_user_holds_is_bounded",
    "MeshLimits.max_endpoints_per_service": "tests/system/test_registrars.py"
    "::test_what_one_user_holds_is_bounded",
    "PluginConfig.max_instances": "tests/config/test_config.py"
    "::test_more_instances_than_anybody_means_are_refused",
    "MeshConfig.max_instances": "tests/config/test_config.py"
    "::test_more_instances_than_anybody_means_are_refused",
    "GatewayConfig.max_memory_per_peer": "tests/gateway/test_budgets.py"
    "::test_replies_that_a_client_does_not_read",
    "GatewayConfig.max_memory": "tests/rpc/test_memory_budgets.py"
    "::test_the_budget_of_the_process_is_taken_from_who_has_most",
    "Limits.connection_memory": "tests/rpc/test_memory_budgets.py"
    "::test_unfinished_messages_of_one_connection_are_bounded",
    "Limits.peer_memory": "tests/rpc/test_memory_budgets.py"
    "::test_unfinished_messages_of_one_connection_are_bounded",
    "Limits.process_memory": "tests/rpc/test_memory_budgets.py"
    "::test_the_budget_of_the_process_is_taken_from_who_has_most",
    "Liveness.overload_threshold": "tests/system/test_overload.py"
    "::test_a_process_in_an_endless_loop_is_killed_after_more_checks",
    "GatewayConfig.max_connections": "tests/rpc/test_connection_limiter.py"
    "::test_connections_are_limited_in_all",
    "GatewayConfig.max_connections_per_peer": "tests/rpc/test_connection_limiter.py"
    "::test_connections_of_one_process_are_limited",
    "GatewayConfig.max_header_list_size": "tests/gateway/test_limits.py::test_header_lists",
    "GatewayConfig.reset_burst": "tests/gateway/test_limits.py::test_resets",
    "GatewayConfig.drain_timeout": "tests/system/test_mesh_restarts.py"
    "::test_a_call_to_a_service_outside_is_ended_when_its_time_is_over",
    "GatewayConfig.reset_rate": "tests/http2/test_rapid_reset.py"
    "::test_rapid_resets_end_the_connection_whatever_their_deadlines",
    "OutputConfig.lines_per_second": "tests/supervisor/process/test_output.py"
    "::test_a_rate_limiter_admits_a_burst_and_then_its_rate",
    "OutputConfig.burst": "tests/system/test_faults.py"
    "::test_a_flood_of_lines_is_dropped_and_counted",
    "OutputConfig.kept": "tests/supervisor/process/test_output.py"
    "::test_a_line_buffer_keeps_the_last_lines_within_its_size",
    "Liveness.interval": "tests/system/test_liveness.py"
    "::test_a_stopped_plugin_is_killed_and_started_again",
    "Liveness.timeout": "tests/system/test_liveness.py"
    "::test_a_stopped_plugin_is_killed_and_started_again",
    "Liveness.failure_threshold": "tests/system/test_liveness.py"
    "::test_a_stopped_plugin_is_killed_and_started_again",
    "Limits.max_connections": "tests/rpc/test_connection_limiter.py"
    "::test_connections_are_limited_in_all",
    "Limits.max_connections_per_peer": "tests/rpc/test_connection_limiter.py"
    "::test_connections_of_one_process_are_limited",
    "Limits.max_concurrent_streams": "tests/http2/test_lifecycle.py"
    "::test_the_preface_announces_the_limits",
    "Limits.stream_window": "tests/http2/test_flow_control.py"
    "::test_an_unread_stream_stops_its_own_sender_only",
    "Limits.connection_window": "tests/http2/test_violations.py"
    "::test_more_data_than_the_connections_window",
    "Limits.max_frame_size": "tests/rpc/test_attacks.py::test_an_attack_ends_its_connection_only",
    "Limits.max_header_list_size": "tests/http2/test_large_headers.py"
    "::test_a_request_is_opened_to_be_answered",
    "Limits.absolute_max_header_list_size": "tests/http2/test_large_headers.py"
    "::test_the_absolute_limit_ends_the_connection",
    "Limits.max_send_header_list_size": "tests/grpc/test_headers.py"
    "::test_the_largest_header_list_that_may_be_sent",
    "Limits.max_message_size": "tests/client/test_message_limits.py"
    "::test_a_message_over_the_limit_costs_no_other_call_of_the_connection",
    "Limits.max_send_message_size": "tests/client/test_message_limits.py"
    "::test_a_channel_may_send_only_so_much",
    "Limits.control_burst": "tests/http2/test_abuse_limits.py::test_a_flood_ends_the_connection",
    "Limits.control_rate": "tests/http2/test_abuse_limits.py"
    "::test_the_same_at_an_honest_pace_does_not",
    "Limits.reset_burst": "tests/http2/test_rapid_reset.py"
    "::test_rapid_resets_end_the_connection_whatever_their_deadlines",
    "Limits.reset_rate": "tests/http2/test_rapid_reset.py"
    "::test_rapid_resets_end_the_connection_whatever_their_deadlines",
    "Limits.reset_grace": "tests/http2/test_rapid_reset.py::test_the_cost_of_a_reset",
    "Timeouts.handshake": "tests/rpc/test_attacks.py::test_a_preface_that_never_ends",
    "Timeouts.frame": "tests/rpc/test_attacks.py::test_a_frame_that_never_ends",
    "Timeouts.message": "tests/rpc/test_attacks.py::test_a_message_that_is_dribbled",
    "Timeouts.half_close": "tests/rpc/test_early_answers.py"
    "::test_a_client_that_does_not_is_reset_after_a_moment",
    "Timeouts.max_connection_idle": "tests/rpc/test_attacks.py::test_a_client_is_sent_elsewhere",
    "Timeouts.max_connection_age": "tests/rpc/test_attacks.py::test_a_client_is_sent_elsewhere",
    "Timeouts.keepalive_time": "tests/rpc/test_attacks.py"
    "::test_a_peer_without_a_sign_of_life_is_lost",
    "Timeouts.keepalive_timeout": "tests/rpc/test_attacks.py"
    "::test_a_peer_without_a_sign_of_life_is_lost",
    "MAX_LINE_LENGTH": "tests/supervisor/process/test_output.py"
    "::test_a_long_line_is_cut_and_what_is_gone_is_counted",
    "_MAX_BUFFERED_LENGTH": "tests/supervisor/process/test_output.py"
    "::test_a_line_buffer_keeps_the_last_lines_within_its_size",
    "MAX_UNREAD_SIZE": "tests/gateway/test_harm.py::test_a_caller_who_never_reads_is_given_up",
    "MAX_GATEWAYS": "tests/gateway/test_routes.py::test_a_call_does_not_go_in_circles",
    "MAX_ATTEMPTS": "tests/client/test_retry_policy.py::test_no_policy_has_more_than_five_attempts",
    "DESCRIPTORS_FRACTION": "tests/rpc/test_connection_limiter.py"
    "::test_file_descriptors_limit_connections_too",
    "MAX_MEASURED_SERVICES": "tests/gateway/test_gateway_metrics.py"
    "::test_series_are_bounded_whatever_is_registered",
}
"""By `Class.field` or constant, the test that holds the bound."""


def block(docstrings: Callable[[type], dict[str, str]]) -> str:
    """Return the tables and the notes on their tests; `docstrings` gives those of a class."""
    parts, notes = [], []
    for title, cls in SOURCES:
        lines = [f"### {title}", "", "| bound | default | what it is |", "| --- | --- | --- |"]
        texts = docstrings(cls)
        for field in _numbers(cls):
            key = f"{cls.__name__}.{field.name}"
            text = _first_sentence(texts.get(field.name, ""))
            name = f"`{field.name}`{_note(key, notes)}"
            lines.append(f"| {name} | {_shown(field.default)} | {text} |")
        parts.append("\n".join(lines))
    lines = ["### Instances", "", "| bound | default | what it is |", "| --- | --- | --- |"]
    for label, cls, name in FIELDS:
        text = _first_sentence(docstrings(cls)[name])
        label += _note(f"{cls.__name__}.{name}", notes)
        lines.append(f"| {label} | {_shown(getattr(attrs.fields(cls), name).default)} | {text} |")
    parts.append("\n".join(lines))
    lines = ["### Fixed", "", "| default | what it is |", "| --- | --- |"]
    for module, name, text in CONSTANTS:
        value: Any = import_module(module)
        for part in name.split("."):
            value = getattr(value, part)
        lines.append(f"| {_shown(value)} | {text}{_note(name, notes)} |")
    parts.append("\n".join(lines))
    return "\n\n".join([BEGIN, *parts, "\n".join(notes), END])


def _numbers(cls: type) -> Iterator[attrs.Attribute[Any]]:
    for field in attrs.fields(cls):
        if isinstance(field.default, int | float) and not isinstance(field.default, bool):
            yield field


def _note(key: str, notes: list[str]) -> str:
    test = TESTS.get(key)
    if test is None:
        return ""
    label = "bound-" + key.strip("_").replace("._", ".").lower()
    notes.append(f"[^{label}]: `{test}`")
    return f"[^{label}]"


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=\.)\s", text)[0]


def _shown(value: float) -> str:
    if value == 2**32 - 1:
        return "none"
    return "none" if value == float("inf") else f"{value:,.10g}"
