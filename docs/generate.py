"""Writes docs/reference/ from the code: every key of a config, every command, and every limit.

python docs/generate.py            write it
python docs/generate.py --check    fail if what is there is not what would be written
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterable
from enum import Enum
from pathlib import Path
from typing import Any, get_args

import attrs
import click
import limits
from limits import docstrings

from meshtrio import contract
from meshtrio.cli import commands
from meshtrio.config import (
    Access,
    AccessRule,
    Containment,
    DnsConfig,
    GatewayConfig,
    GroupConfig,
    Liveness,
    LogConfig,
    MeshConfig,
    MeshLimits,
    OutputConfig,
    PluginConfig,
    RegistryAccessRule,
    Rlimits,
    StaticServiceConfig,
    TaskConfig,
    TelemetryConfig,
)
from meshtrio.util.backoff import Backoff
from meshtrio.util.tls_config import ClientTlsConfig, ServerTlsConfig

DOCS = Path(__file__).resolve().parent
NOT_IN_MESH = frozenset({"plugins", "groups", "services", "tasks", "source"})
CONFIG_HEAD = """# The config file

Made by `docs/generate.py` from `meshtrio/config`. `meshtrio check mesh.toml` reports every mistake
in a file at once. The same names are attributes of `MeshConfig`, `PluginConfig` and the others in
`meshtrio.config`. Times are seconds; relative paths start from the file's folder. What happens when
a limit is reached is in [limits](limits.md).
"""
READINESS = """\
It is ready once its socket accepts and `grpc.health.v1.Health/Check("")` says SERVING; a server
without a health service is ready once it answers at all. It is stopped by SIGTERM to its process
group, and what is left of the group after `stop_timeout`, or after the process itself has ended, is
killed."""
TABLES: tuple[tuple[str, str, type], ...] = (
    ("`[mesh]`", "The mesh as a whole.", MeshConfig),
    ("`[mesh.access]`", "What each part amounts to for those it is open to.", Access),
    ("`[mesh.access.control]`, `.registry` and `.gateway`", "", AccessRule),
    ("`[mesh.access.registry]`, in addition", "", RegistryAccessRule),
    ("`[mesh.gateway]`", "", GatewayConfig),
    ("`[mesh.dns]`", "", DnsConfig),
    ("`[mesh.limits]`", "", MeshLimits),
    ("`[mesh.log]`", "", LogConfig),
    ("`[mesh.telemetry]`", "", TelemetryConfig),
    ("`[[plugin]]`, once for each plugin", "", PluginConfig),
    ("`backoff` of a plugin or task", "", Backoff),
    ("`liveness` of a plugin", "", Liveness),
    ("`output` of a plugin or task", "", OutputConfig),
    ("`containment` of a plugin or task", "", Containment),
    ("`containment.rlimits`", "", Rlimits),
    ("`[[group]]`, once for each group", "", GroupConfig),
    ("`[[task]]`, once for each task", "", TaskConfig),
    (
        "`[[service]]`: endpoints the mesh does not run, how services are called",
        "",
        StaticServiceConfig,
    ),
    ("`serve_tls` of a plugin, and `tls` of the gateway", "", ServerTlsConfig),
    ("`tls` of a plugin and of a service", "", ClientTlsConfig),
)


def joined(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


def default(field: attrs.Attribute[Any]) -> str:
    value = field.default
    if value is attrs.NOTHING:
        return "required"
    if isinstance(value, attrs.Factory):  # type: ignore[arg-type]
        return "see below" if inspect.isclass(value.factory) and attrs.has(value.factory) else ""
    if value is None or value == ():
        return ""
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'`"{value}"`'
    return str(value) if isinstance(value, int) else f"{value:g}"


def choices(hint: Any) -> str:
    hint = next((arg for arg in get_args(hint) if arg is not type(None)), hint)
    if inspect.isclass(hint) and issubclass(hint, Enum):
        return " One of " + ", ".join(f'`"{member.value}"`' for member in hint) + "."
    return ""


def table(title: str, text: str, cls: type) -> str:
    texts = docstrings(inspect.getsource(cls))
    hints = inspect.get_annotations(cls, eval_str=True)
    skipped = NOT_IN_MESH if cls is MeshConfig else frozenset()
    rows = [
        f"| `{field.name}` | {default(field)} | {texts[field.name]}{choices(hints[field.name])} |"
        for field in attrs.fields(cls)
        if field.name not in skipped and not field.inherited
    ]
    about = text or paragraphs(inspect.getdoc(cls) or "")
    head = [f"## {title}", "", about, "", "| key | default | meaning |", "| --- | --- | --- |"]
    return "\n".join([*head, *rows])


def paragraphs(text: str) -> str:
    return "\n\n".join(joined(part) for part in text.split("\n\n"))


def config_page() -> str:
    texts = docstrings(Path(contract.__file__).read_text())
    environment = [
        "## What a plugin's process is given",
        "",
        "| variable | meaning |",
        "| --- | --- |",
        *(f"| `{name}` | {texts[name]} |" for name in texts if name in contract.MESH_VARIABLES),
        "",
        READINESS,
    ]
    parts = [CONFIG_HEAD, *(table(*each) for each in TABLES), "\n".join(environment)]
    return "\n".join(f"{part}\n" for part in parts)


# -- commands ----------------------------------------------------------------------------------


def command_page() -> str:
    context = click.Context(commands, info_name="meshtrio")
    about = paragraphs(inspect.cleandoc(commands.help or ""))
    parts = ["# Commands", "Made by `docs/generate.py` from `meshtrio/cli`.", about]
    for name in commands.list_commands(context):
        command = commands.get_command(context, name)
        assert command is not None
        parts.append(command_section(name, command, context))
    return "\n\n".join(parts) + "\n"


def command_section(name: str, command: click.Command, parent: click.Context) -> str:
    context = click.Context(command, info_name=name, parent=parent)
    usage = " ".join(command.collect_usage_pieces(context))
    lines = [f"## `meshtrio {name} {usage}`", "", *help_of(command)]
    records = [
        record
        for parameter in command.get_params(context)
        if (record := parameter.get_help_record(context)) and "--help" not in record[0]
    ]
    if records:
        lines += ["", "| option | meaning |", "| --- | --- |"]
        lines += [f"| `{cell(option)}` | {cell(joined(text))} |" for option, text in records]
    return "\n".join(lines)


def help_of(command: click.Command) -> Iterable[str]:
    yield paragraphs(inspect.cleandoc(command.help or "").replace("\b\n", ""))


def cell(text: str) -> str:
    return text.replace("|", "\\|")


def main() -> None:
    made = {
        "reference/config.md": config_page(),
        "reference/cli.md": command_page(),
        "reference/limits.md": limits.page(),
    }
    stale = [
        name
        for name, text in made.items()
        if not (DOCS / name).exists() or (DOCS / name).read_text() != text
    ]
    if "--check" in sys.argv[1:]:
        for name in stale:
            print(f"docs/{name} is not what docs/generate.py makes", file=sys.stderr)
        sys.exit(bool(stale))
    for name in stale:
        (DOCS / name).write_text(made[name])
        print(f"wrote docs/{name}")


if __name__ == "__main__":
    main()
