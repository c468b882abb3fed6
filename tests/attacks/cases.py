"""Which attacks there are, and what each is measured with."""

from __future__ import annotations

import attrs

from tests.attacks.dead_endpoints import SERVICE as DEAD
from tests.support.mesh_processes import plugin_table


def _programs(kind: str, count: int = 1, **settings: object) -> str:
    tables = [
        plugin_table(f"{kind}{number}", "{programs}/plugin.py", kind, **settings)
        for number in range(count)
    ]
    return "\n".join(tables)


@attrs.frozen
class Case:
    """One attack, as it is measured."""

    module: str
    """Of this package."""
    description: str
    """It, for the table."""
    to_gateway: bool = True
    """Whether the mesh socket is attacked, or else the socket of the plugin."""
    config: str = ""
    """Tables beside that of the plugin `echo`; `{programs}` and `{run}` are put in."""
    echo_settings: dict[str, object] = attrs.field(factory=dict)
    """Settings of the plugin `echo`."""
    bystander_service: str = "plugin.echo"
    """The service that the bystander opens new channels to."""


_QUICK = {"backoff": {"initial": 0.05, "maximum": 0.2}, "ready_timeout": 60.0}
CASES = {
    "unfinished_messages": Case("unfinished_messages", "900 unfinished messages of 4 MiB"),
    "gzip_bombs": Case("gzip_bombs", "600 gzip bombs of 4 MiB on one connection"),
    "large_replies": Case("large_replies", "large replies not read by 8 connections"),
    "one_byte_data": Case("one_byte_data", "1-byte DATA over 10 connections"),
    "one_byte_data_60": Case("one_byte_data_60", "1-byte DATA over 60 connections"),
    "rapid_resets": Case("rapid_resets", "rapid resets over new connections"),
    "unfinished_messages_direct": Case(
        "unfinished_messages", "900 unfinished messages, to the plugin", to_gateway=False
    ),
    "gzip_bombs_direct": Case("gzip_bombs", "600 gzip bombs, to the plugin", to_gateway=False),
    "one_byte_data_direct": Case(
        "one_byte_data", "1-byte DATA over 10 connections, to the plugin", to_gateway=False
    ),
    "rapid_resets_direct": Case(
        "rapid_resets", "rapid resets over new connections, to the plugin", to_gateway=False
    ),
    "watches": Case("watches", "20,000 watches of the registry"),
    "dead_endpoints": Case(
        "dead_endpoints",
        "2,000 dead endpoints of a service",
        config=f'[[service]]\nname = "{DEAD}"\nendpoints = ["unix:{{run}}/echo-0.sock"]\n',
        bystander_service=DEAD,
    ),
    "output_flood": Case(
        "output_flood", "10 plugins that write empty lines", config=_programs("flooding", 10)
    ),
    "huge_reflection": Case(
        "huge_reflection", "4 MB of descriptors in reflection", config=_programs("reflecting")
    ),
    "scrape_families": Case(
        "scrape_families",
        "scrapes of 9,000 families",
        config='[mesh.telemetry]\nmetrics = "{metrics}"\n' + _programs("measuring"),
    ),
    "scale_typo": Case("scale_typo", "`scale echo 3000000`"),
    "many_connections": Case(
        "many_connections",
        "500 connections at `ulimit -n` 1024",
        to_gateway=False,
        echo_settings={"containment": {"rlimits": {"nofile": 1024}}},
    ),
    "exit_storm": Case(
        "exit_storm",
        "exits with binary stderr",
        config=_programs("exiting", 1, instances=8, **_QUICK),
        bystander_service="plugin.exiting0",
    ),
}
